// Tables that are sorted by a click on a head, shown with chosen columns, copied, and saved as CSV or LaTeX.
const shownRows = (table) => [...table.rows].filter((row) => !row.hidden);
const texts = (row) => [...row.cells].filter((cell) => !cell.hidden).map((cell) => (cell.dataset.text || cell.textContent).trim());
const latex = (text) => text.replace(/[&%$#_{}]/g, "\\$&").replace(/[~^]/g, (c) => (c === "~" ? "\\textasciitilde{}" : "\\textasciicircum{}"));

// Starts a download of a text; nothing leaves the page.
function save(name, text, kind) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: kind }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// Sorts by a column. The base stays first, and the seeds of a group stay below it.
function sortBy(table, column, head) {
  const down = head.getAttribute("aria-sort") !== "descending", body = table.tBodies[0], blocks = [];
  for (const row of body.rows) row.classList.contains("seed") ? blocks.at(-1).push(row) : blocks.push([row]);
  const key = (block) => block[0].cells[column].dataset.v ?? block[0].cells[column].textContent;
  const compare = (a, b) => (isNaN(a) || isNaN(b) || a === "" || b === "" ? (a === "") - (b === "") || String(a).localeCompare(b) : (down ? b - a : a - b));
  const fixed = blocks.filter((block) => block[0].classList.contains("base"));
  const moved = blocks.filter((block) => !fixed.includes(block)).sort((a, b) => compare(key(a), key(b)));
  body.append(...fixed.flat(), ...moved.flat());
  table.querySelectorAll("thead th").forEach((th) => th.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
}

function csv(table) {
  const cell = (text) => (/^[=+\-@]/.test(text) && isNaN(text) ? `"'${text.replace(/"/g, '""')}"` : `"${text.replace(/"/g, '""')}"`);
  return shownRows(table).map((row) => texts(row).map(cell).join(",")).join("\r\n") + "\r\n";
}

// Returns a table for booktabs: differences with half their interval, arrows in the heads, the best of a column bold.
function tex(table) {
  const heads = [...table.tHead.rows[0].cells], shown = heads.map((_, k) => k).filter((k) => !heads[k].hidden);
  const rows = shownRows(table).filter((row) => row.parentElement.tagName === "TBODY" && !row.classList.contains("seed"));
  const best = (k) => {
    const sign = Number(heads[k].dataset.better || 0), values = rows.filter((r) => !r.classList.contains("base") && r.cells[k].dataset.v !== undefined);
    return sign && values.length > 1 ? values.reduce((a, b) => (sign * a.cells[k].dataset.v >= sign * b.cells[k].dataset.v ? a : b)) : null;
  };
  const winners = heads.map((_, k) => best(k));
  const cell = (row, k) => {
    const one = row.cells[k], text = one.dataset.tex ? `$${row === winners[k] ? `\\mathbf{${one.dataset.tex}}` : one.dataset.tex}$` : latex(one.textContent.trim());
    return text === "–" ? "--" : text;
  };
  const arrow = (k) => ({ 1: " $\\uparrow$", "-1": " $\\downarrow$" }[heads[k].dataset.better] || "");
  const name = (k) => latex(heads[k].dataset.name || heads[k].textContent.trim());
  return [`\\begin{tabular}{l${"r".repeat(Math.max(0, shown.length - 1))}}`, "\\toprule", `${shown.map((k) => name(k) + arrow(k)).join(" & ")} \\\\`, "\\midrule",
    ...rows.map((row) => `${shown.map((k) => cell(row, k)).join(" & ")} \\\\`), "\\bottomrule", "\\end{tabular}", ""].join("\n");
}

const namesIn = (row) => [...row.cells].filter((cell) => cell.dataset.v === undefined).map((cell) => cell.textContent.toLowerCase()).join(" ");

// Returns a field that hides the rows without its words; the base stays, and seeds go with their setting.
function filter(table) {
  const field = Object.assign(document.createElement("input"), { type: "search", placeholder: "filter rows" });
  field.setAttribute("aria-label", "filter rows");
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = true;
    for (const row of table.tBodies[0].rows) {
      if (!row.classList.contains("seed")) shown = row.classList.contains("base") || words.every((word) => namesIn(row).includes(word));
      row.hidden = !shown;
    }
  });
  return field;
}

function chooser(table) {
  const box = document.createElement("details"), heads = [...table.tHead.rows[0].cells];
  box.append(Object.assign(document.createElement("summary"), { textContent: "Columns" }));
  heads.slice(1).forEach((head, index) => {
    const label = document.createElement("label"), tick = Object.assign(document.createElement("input"), { type: "checkbox", checked: true });
    tick.addEventListener("change", () => { for (const row of table.rows) row.cells[index + 1].hidden = !tick.checked; });
    label.append(tick, ` ${head.dataset.name || head.textContent.trim()}`);
    box.append(label);
  });
  return box;
}

function equip(table) {
  const heads = [...table.tHead.rows[0].cells], tools = document.createElement("div"), name = table.dataset.file || "table";
  heads.forEach((head, column) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: head.textContent.trim() || "name" });
    head.dataset.name ||= head.textContent.trim();
    button.addEventListener("click", () => sortBy(table, column, head));
    head.replaceChildren(button);
  });
  const acts = { Copy: (b) => copied(b, shownRows(table).map((row) => texts(row).join("\t")).join("\n")),
    CSV: () => save(`${name}.csv`, csv(table), "text/csv"), LaTeX: () => save(`${name}.tex`, tex(table), "text/x-tex") };
  tools.className = "tools";
  for (const [word, act] of Object.entries(acts)) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: word });
    button.addEventListener("click", () => act(button));
    tools.append(button);
  }
  tools.append(chooser(table));
  if (table.tBodies[0].rows.length > 5) tools.append(filter(table));
  table.closest(".scroll").before(tools);
}

document.querySelectorAll("main .scroll > table").forEach(equip);
