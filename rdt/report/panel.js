// What a point tells: a short tip under the pointer, and a panel that a click or Enter pins below the plots.
function line(tag, text, name) {
  return Object.assign(document.createElement(tag), { textContent: text, className: name || "" });
}

// Returns a mean with its interval, in which all numbers have as many decimals as give half the interval two digits.
function range(s, form) {
  const half = (s[2] - s[1]) / 2, sign = (x) => (form === signed && x > 0 ? "+" : "");
  if (!(half > 1e-6 && half < 1e6)) return form(s[0]);
  const [mean, lo, hi] = s.map((x) => sign(x) + x.toFixed(Math.max(0, 1 - Math.floor(Math.log10(half)))));
  return `${mean} [${lo}, ${hi}]`;
}

function tip(p) {
  const rows = Object.entries(p.scores).map(([name, s]) => `${name}  ${range(s, brief)}${p.diffs[name] && p.kind !== "base" ? `  Δ ${range(p.diffs[name], signed)}` : ""}`);
  return [line("b", p.name), line("p", p.verdict || ""), line("p", p.config || ""), line("p", rows.join("\n")), line("p", "Click or Enter: pin, with images and command", "quiet")];
}

function place(hover, event) {
  const fits = (from, size, room) => Math.max(8, from + 16 + size > room - 8 ? Math.min(from - 16 - size, room - 8 - size) : from + 16);
  hover.style.left = `${fits(event.clientX, hover.offsetWidth, innerWidth)}px`;
  hover.style.top = `${Math.max(8, Math.min(event.clientY + 12, innerHeight - hover.offsetHeight - 8))}px`;
}

async function copied(button, text) {
  try { await navigator.clipboard.writeText(text); } catch {  // of a page that was opened from a file in some browsers
    const area = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  const before = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = before; }, 1200);
}

// Returns a copy of a sample grid of the page with its prompts; a click on it shows it larger.
function samples(id, words) {
  const grid = id && document.getElementById(id);
  if (!grid) return [];
  const picture = document.createElement("figure"), copy = (grid.closest(".pair") || grid.closest(".enlarge")).cloneNode(true);
  copy.querySelector("img").removeAttribute("id");
  picture.className = "grids";
  picture.append(line("figcaption", words), copy);
  return [picture];
}

function scoresTable(p) {
  const table = document.createElement("table"), rows = Object.keys(p.scores).map((name) => {
    const row = document.createElement("tr"), cells = [range(p.scores[name], brief), p.diffs[name] && p.kind !== "base" ? range(p.diffs[name], signed) : "–"];
    row.append(Object.assign(line("th", name), { scope: "row" }), ...cells.map((text) => line("td", text)));
    return row;
  });
  const head = document.createElement("tr");
  head.append(...["score", "value", "difference to the base"].map((text) => Object.assign(line("th", text), { scope: "col" })));
  table.append(head, ...rows);
  return table;
}

function pinned(p) {
  const box = document.createElement("section"), table = document.createElement("div");
  box.setAttribute("aria-label", p.name);
  table.className = "scroll";
  table.append(scoresTable(p));
  box.append(line("h3", p.name), line("p", [p.verdict, p.config].filter(Boolean).join(" · "), "quiet"), ...samples(p.grid, p.drawn || "same noise as the base"), table);
  if (p.command) {
    const button = Object.assign(line("button", "Copy command"), { type: "button" });
    button.addEventListener("click", () => copied(button, p.command));
    box.append(line("pre", p.command), button);
  }
  return box;
}

// Shows the base's images and the pinned points side by side; nothing if none is pinned.
function showPins(panel, data, pins, close) {
  panel.hidden = !pins.length;
  if (!pins.length) { panel.replaceChildren(); return; }
  const button = Object.assign(line("button", "Close (Esc)"), { type: "button", className: "close" }), base = document.createElement("section");
  button.addEventListener("click", close);
  base.append(line("h3", "base"), line("p", "Shift and click another point to see it beside this one.", "quiet"), ...samples(data.points[0].grid, "the untuned model"));
  panel.replaceChildren(button, ...(pins.includes(0) ? [] : [base]), ...pins.map((k) => pinned(data.points[k])));
}

// Shows an image as large as the window; Esc or a click closes it.
function enlarge(image) {
  const dialog = document.createElement("dialog"), copy = new Image(), button = Object.assign(line("button", "Close"), { type: "button" });
  Object.assign(copy, { src: image.src, alt: image.alt });
  dialog.setAttribute("aria-label", image.alt);
  dialog.append(button, copy);
  dialog.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
document.addEventListener("click", (event) => {
  const button = event.target.closest(".enlarge");
  if (button) enlarge(button.querySelector("img"));
});
