// The list of runs: asked for every two seconds, filtered, sorted, pinned; the pinned or training runs are drawn below.
const EVERY = 2000, get = (id) => document.getElementById(id), pins = new Set(JSON.parse(localStorage.getItem("rdt pins") || "[]"));
let rows = [], sorted = { key: "updated", down: true }, drawn = "";
const made = (tag, text, name) => Object.assign(document.createElement(tag), { textContent: text, className: name || "" });
const figures = (x) => (x === null || x === undefined ? "" : Number(x.toPrecision(3)).toString());
const ago = (at) => { const s = Math.max(0, Date.now() / 1000 - at); return s < 90 ? `${Math.round(s)} s ago` : s < 5400 ? `${Math.round(s / 60)} min ago` : s < 172800 ? `${Math.round(s / 3600)} h ago` : `${Math.round(s / 86400)} days ago`; };
const FIXED = { title: "run", status: "status", iteration: "iteration", method: "method", reward: "reward", model: "model", seed: "seed" };

// Returns the scores that become columns: two of the runs that train, then those of most runs, at most ten.
function scoreNames() {
  const counts = new Map();
  rows.forEach((row) => Object.keys(row.scores).forEach((name) => counts.set(name, (counts.get(name) || 0) + 1)));
  const training = rows.filter((row) => row.status === "running").flatMap((row) => Object.keys(row.scores).slice(0, 2));
  return [...new Set([...training, ...[...counts].sort((a, b) => b[1] - a[1]).map(([name]) => name)])].slice(0, 10);
}

function value(row, key) {
  return key in FIXED || key === "updated" ? row[key] ?? "" : row.scores[key]?.[0] ?? "";
}

function shownRuns() {
  const words = get("filter").value.toLowerCase().split(/\s+/).filter(Boolean), status = get("status").value;
  const text = (row) => [row.title, row.status, row.method, row.reward, row.model, `seed ${row.seed}`, row.overrides, row.note].join(" ").toLowerCase();
  const compare = (a, b) => { const [x, y] = [value(a, sorted.key), value(b, sorted.key)]; return x === "" || y === "" ? (x === "") - (y === "") : (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true })) * (sorted.down ? -1 : 1); };
  return rows.filter((row) => (!status || row.status === status) && words.every((word) => text(row).includes(word)))
    .sort((a, b) => pins.has(b.id) - pins.has(a.id) || compare(a, b));
}

function head(names) {
  const line = document.createElement("tr");
  line.append(...[...Object.entries(FIXED), ...names.map((name) => [name, name]), ["updated", "last news"]].map(([key, text]) => {
    const cell = made("th", ""), button = Object.assign(made("button", text), { type: "button" });
    cell.scope = "col";
    if (sorted.key === key) cell.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
    button.addEventListener("click", () => { sorted = { key, down: sorted.key === key ? !sorted.down : true }; draw(); get("runs").querySelectorAll("thead button")[[...line.children].indexOf(cell)].focus(); });
    cell.append(button);
    return cell;
  }));
  return line;
}

function entry(row, names) {
  const line = document.createElement("tr"), first = made("th", ""), pin = Object.assign(made("button", pins.has(row.id) ? "pinned" : "pin", "pin"), { type: "button" });
  first.scope = "row";
  pin.setAttribute("aria-pressed", String(pins.has(row.id)));
  pin.setAttribute("aria-label", `pin ${row.title}`);
  pin.addEventListener("click", () => {
    pins.has(row.id) ? pins.delete(row.id) : pins.add(row.id);
    localStorage.setItem("rdt pins", JSON.stringify([...pins]));
    draw();
    [...get("runs").querySelectorAll(".pin")].find((one) => one.closest("tr").dataset.id === row.id)?.focus();
  });
  first.append(pin, row.title);
  if (row.hacked) first.append(" ", made("span", "hacked", "tag"));
  if (row.note) first.append(made("div", row.note, "note"));
  line.dataset.id = row.id;
  const progress = made("td", row.iterations ? `${row.iteration} / ${row.iterations} ` : String(row.iteration ?? ""));
  if (row.status === "running" && row.iterations) {
    const bar = Object.assign(document.createElement("progress"), { max: row.iterations, value: row.iteration });
    bar.setAttribute("aria-label", `progress of ${row.title}`);
    progress.append(bar);
  }
  const scores = names.map((name) => {
    const [mean, diff] = row.scores[name] || [], cell = made("td", figures(mean));
    if (diff !== null && diff !== undefined) cell.append(made("small", `Δ ${diff > 0 ? "+" : ""}${figures(Number(diff.toPrecision(2)))}`, "quiet"));
    return cell;
  });
  line.append(first, made("td", row.status, `words ${row.status}`), progress, ...["method", "reward", "model", "seed"].map((key) => made("td", row[key], "words")), ...scores, made("td", row.updated ? ago(row.updated) : ""));
  return line;
}

function draw() {
  const names = scoreNames(), shown = shownRuns(), table = get("runs");
  if (!table.contains(document.activeElement) || !table.tBodies[0].rows.length) {
    table.tHead.replaceChildren(head(names));
    table.tBodies[0].replaceChildren(...shown.map((row) => entry(row, names)));
  } else refresh(shown, names);
  const chosen = shown.filter((row) => pins.has(row.id)), count = (status) => rows.filter((row) => row.status === status).length;
  const text = `${shown.length} of ${rows.length} runs · ${count("running")} training · ${pins.size ? `${chosen.length} pinned` : "none pinned"}`;
  if (get("said").textContent !== text) get("said").textContent = text;
  const compared = chosen.length ? chosen : shown;
  get("compare").href = `report?${compared.filter((row) => row.status === "finished").map((row) => `run=${row.id}`).join("&")}`;
  get("compare").textContent = chosen.length ? `Compare ${chosen.length} pinned` : `Compare all shown`;
}

// Draws the table again without losing the focus of the keyboard.
function refresh(shown, names) {
  const table = get("runs"), held = document.activeElement, id = held.closest("tbody tr")?.dataset.id, column = held.closest("th")?.cellIndex;
  table.tHead.replaceChildren(head(names));
  table.tBodies[0].replaceChildren(...shown.map((row) => entry(row, names)));
  (id ? [...table.tBodies[0].rows].find((one) => one.dataset.id === id)?.querySelector(".pin") : table.tHead.rows[0].cells[column]?.querySelector("button"))?.focus();
}

async function live() {
  const pinned = rows.filter((row) => pins.has(row.id)), training = rows.filter((row) => row.status === "running");
  const chosen = (pinned.length ? pinned : training.length ? training : shownRuns().slice(0, 1)).slice(0, 12);
  const found = chosen.length ? await (await fetch(`live?${chosen.map((row) => `run=${row.id}`).join("&")}`)).text() : "";
  if (found === drawn) return;
  const box = get("live"), places = [...box.querySelectorAll(".time input")].map((slider) => (slider.value === slider.max ? null : slider.value));
  drawn = found;
  box.innerHTML = found;
  box.querySelectorAll(".time").forEach((one, k) => { if (places[k] !== null && places[k] !== undefined) one.querySelector("input").value = places[k]; timeSlider(one); });
}

async function tick() {
  try {
    rows = await (await fetch("runs.json")).json();
    draw();
    await live();
  } catch (error) { get("said").textContent = "rdt view has ended"; }
  setTimeout(tick, EVERY);
}
get("filter").addEventListener("input", draw);
get("status").addEventListener("change", draw);
tick();
