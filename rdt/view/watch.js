// Asks every two seconds whether a run of the report has changed; a click draws the report again at the same place.
const version = document.getElementById("watch").dataset.version, changed = document.getElementById("changed");
setInterval(async () => {
  try {
    const found = await (await fetch(`version${location.search}`)).json();
    if (found === version || changed.firstChild) return;
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: "A run has changed: draw the report again" });
    button.addEventListener("click", () => location.reload());
    changed.append(button);
  } catch { changed.textContent = "rdt view has ended"; }
}, 2000);
