// The images behind the points. A gallery is a table of prompts against settings whose rows hold images of one noise;
// the pinned panel and the enlarged view show the same cells. `rdt.report.gallery` writes the data.
const galleryOf = (id) => JSON.parse(document.querySelector(`[data-gallery="${id}"] > script`)?.textContent || "null");
const promptsOf = (id) => JSON.parse(document.querySelector(`[data-prompts="${id}"] > script`)?.textContent || "null");

function choice(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => Object.assign(line("option", text), { value, selected: value === chosen })));
}

// Returns the difference of a score at the prompt of a row, undefined if it was not measured.
function changeAt(data, group, score, row) {
  const known = data.byPrompt, rows = known?.rows[group]?.[score];
  return rows?.[known.prompts.indexOf(data.gallery.prompts[row])];
}

// Returns the rows of a gallery: as evaluated, or by the difference of a score at one setting, the worst or best first.
function ordered(data, order, group, score) {
  const rows = data.gallery.prompts.map((_, row) => row), side = (data.better[score] || 1) * (order === "best" ? -1 : 1);
  if (order === "none") return rows;
  const key = (row) => { const found = changeAt(data, group, score, row); return found === undefined ? Infinity : side * found; };
  return rows.sort((a, b) => key(a) - key(b) || a - b);
}

// Returns the scores of an image in words, each with its difference to the base's at the same noise if that is given.
function scoresOf(data, cell, base) {
  return data.gallery.names.map((name, k) => {
    const [value, before] = [cell[1][k], base?.[1][k]];
    return value === null ? "" : `${name} ${brief(value)}${base && before !== null ? ` (${signed(Number((value - before).toPrecision(2)))})` : ""}`;
  }).filter(Boolean);
}

// Returns a button with the image of a setting at one prompt and noise; a click shows it large beside the others.
function cellButton(data, group, row, column, open) {
  const cell = data.gallery.points[group]?.[row]?.[column];
  if (!cell) return line("span", "no image", "quiet");
  const button = document.createElement("button"), image = new Image();
  const words = `${group || "base"}, ${data.gallery.prompts[row]}, image ${column + 1}: ${scoresOf(data, cell).join(", ")}`;
  Object.assign(image, { alt: words, title: words, loading: "lazy", decoding: "async", src: cell[0] });
  image.addEventListener("load", () => image.classList.toggle("pixels", image.naturalWidth < 128));
  Object.assign(button, { type: "button", className: "cell" });
  button.addEventListener("click", () => open(row, column));
  button.append(image);
  return button;
}

// Returns a figure of one setting's image with its scores, as the panel and the enlarged view show it.
function cellFigure(data, group, row, column, open) {
  const figure = document.createElement("figure"), cells = data.gallery.points;
  const cell = cells[group]?.[row]?.[column], words = cell ? scoresOf(data, cell, group ? cells[""][row][column] : null) : [];
  figure.append(cellButton(data, group, row, column, open), line("figcaption", words.join("\n")));
  return figure;
}

// Shows one prompt and noise under several settings as large as the window; arrows go to other noises and prompts.
function enlargeCells(data, groups, rows, row, column) {
  const dialog = document.createElement("dialog"), close = Object.assign(line("button", "Close"), { type: "button" });
  const title = line("h3", ""), body = document.createElement("div"), count = data.gallery.columns;
  const hint = line("p", "← → other noise, ↑ ↓ other prompt, Esc closes", "quiet");
  const steps = [["‹", 0, -1, "noise before"], ["›", 0, 1, "next noise"], ["↑", -1, 0, "prompt before"], ["↓", 1, 0, "next prompt"]].map(([text, down, right, name]) => {
    const button = Object.assign(line("button", text), { type: "button" });
    button.setAttribute("aria-label", name);
    button.addEventListener("click", () => go(down, right));
    return button;
  });
  const bar = document.createElement("div");
  const show = () => {
    title.textContent = `${data.gallery.prompts[row]} · image ${column + 1} of ${count}`;
    body.replaceChildren(...groups.map((group) => {
      const figure = cellFigure(data, group, row, column, () => dialog.close());
      figure.prepend(line("b", group || "base"));
      return figure;
    }));
  };
  const go = (down, right) => {
    row = rows[(rows.indexOf(row) + down + rows.length) % rows.length];
    column = (column + right + count) % count;
    show();
  };
  bar.className = "tools";
  bar.append(close, ...steps);
  body.className = "large";
  dialog.className = "cells";
  dialog.setAttribute("aria-label", "images at the same noise");
  dialog.append(bar, title, body, hint);
  dialog.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (by) { event.preventDefault(); go(...by); }
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => dialog.remove());
  close.addEventListener("click", () => dialog.close());
  show();
  document.body.append(dialog);
  dialog.showModal();
}

// Returns the differences of a prompt at a setting in words.
function changesOf(data, group, row) {
  const found = data.byPrompt?.rows[group] || {};
  return Object.keys(found).filter((name) => data.better[name]).slice(0, 4).map((name) => {
    const value = changeAt(data, group, name, row);
    return value === undefined ? "" : `Δ ${name} ${signed(value)}`;
  }).filter(Boolean).join(" · ");
}

// Returns the base and the pinned settings cell by cell: a block per prompt, in which each noise is a column.
function comparedCells(data, groups, score, most) {
  const box = document.createElement("div"), all = ["", ...groups], rows = ordered(data, "worst", groups[0], score);
  const draw = (count) => {
    box.replaceChildren(...rows.slice(0, count).map((row) => {
      const block = document.createElement("section"), grid = document.createElement("div");
      grid.className = "noises";
      grid.style.setProperty("--columns", data.gallery.columns);
      all.forEach((group) => {
        grid.append(line("span", group || "base", "who"));
        for (let column = 0; column < data.gallery.columns; column++) grid.append(cellFigure(data, group, row, column, (r, c) => enlargeCells(data, all, rows, r, c)));
      });
      block.append(line("h4", data.gallery.prompts[row]), ...groups.map((group) => line("p", `${groups.length > 1 ? `${group}: ` : ""}${changesOf(data, group, row)}`, "quiet")), grid);
      return block;
    }));
    if (count >= rows.length) return;
    const more = Object.assign(line("button", `All ${rows.length} prompts`), { type: "button", className: "more" });
    more.addEventListener("click", () => draw(rows.length));
    box.append(more);
  };
  box.className = "compared";
  draw(most);
  return box;
}

// Draws what a gallery shows into a canvas and saves it as PNG.
async function exportGallery(data, groups, rows, columns, status) {
  const size = 128, gap = 6, left = 210, head = 34, ratio = 2, wide = columns.length * size + gap * 2;
  const canvas = document.createElement("canvas"), pen = canvas.getContext("2d"), css = getComputedStyle(document.documentElement);
  canvas.width = ratio * (left + groups.length * wide);
  canvas.height = ratio * (head + rows.length * (size + gap));
  pen.scale(ratio, ratio);
  pen.fillStyle = css.getPropertyValue("--paper");
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.fillStyle = css.getPropertyValue("--ink");
  pen.font = "bold 13px sans-serif";
  groups.forEach((group, k) => pen.fillText(group || "base", left + k * wide, 20, wide - gap));
  pen.font = "12px sans-serif";
  const jobs = rows.flatMap((row, y) => {
    wrapped(pen, data.gallery.prompts[row], left - 16).slice(0, 7).forEach((text, k) => pen.fillText(text, 8, head + y * (size + gap) + 14 + 15 * k));
    return groups.flatMap((group, x) => columns.map(async (column, k) => {
      const cell = data.gallery.points[group]?.[row]?.[column];
      if (!cell) return;
      const image = new Image();
      image.src = cell[0];
      await image.decode();
      pen.imageSmoothingEnabled = image.naturalWidth >= 128;
      pen.drawImage(image, left + x * wide + k * size, head + y * (size + gap), size - 2, size - 2);
    }));
  });
  const failed = (await Promise.allSettled(jobs)).filter((job) => job.status === "rejected").length;
  try {
    const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: "gallery.png" });
    link.click();
    status.textContent = failed ? `saved gallery.png; ${failed} images could not be read` : "saved gallery.png";
  } catch {  // a browser lets no page that was opened from a file read images beside it
    status.textContent = "The browser does not let this page read images beside it; open the folder with `rdt view` to save the gallery.";
  }
}

function wrapped(pen, text, width) {
  return text.split(" ").reduce((lines, word) => {
    const longer = `${lines.at(-1)} ${word}`.trim();
    return pen.measureText(longer).width <= width ? [...lines.slice(0, -1), longer] : [...lines, word];
  }, [""]);
}

// Fills the gallery of a comparison and keeps its controls; returns a function that shows a setting in it.
function gallery(box, data) {
  const find = (name) => box.querySelector(`[data-of="${name}"]`), [table, status] = [box.querySelector(".scroll"), box.querySelector("[role=status]")];
  const all = Object.keys(data.gallery.points), groups = all.filter(Boolean), known = data.byPrompt?.rows[groups[0]] || {};
  const scores = Object.keys(known), diversity = data.planes[0]?.x, count = data.gallery.prompts.length;
  let shown = new Set(all.slice(0, 5));
  choice(find("order"), [["worst", "worst first"], ["best", "best first"], ["none", "as evaluated"]], scores.length ? "worst" : "none");
  choice(find("score"), scores.map((name) => [name, `Δ ${name}`]), scores.includes(diversity) ? diversity : scores[0]);
  choice(find("setting"), groups.map((name) => [name, name]), groups[0]);
  choice(find("column"), [["all", "all"], ...Array.from({ length: data.gallery.columns }, (_, k) => [String(k), `${k + 1} of ${data.gallery.columns}`])], groups.length > 2 ? "0" : "all");
  choice(find("count"), [...new Set([Math.min(6, count), Math.min(12, count), count])].map((n) => [String(n), n === count ? `all ${n}` : String(n)]), String(Math.min(6, count)));
  const boxes = all.map((group) => {
    const label = document.createElement("label"), input = Object.assign(document.createElement("input"), { type: "checkbox", checked: shown.has(group), value: group });
    input.addEventListener("change", () => { input.checked ? shown.add(group) : shown.delete(group); draw(); });
    label.append(input, ` ${group || "base"}`);
    return label;
  });
  box.querySelector(".which").append(...boxes);
  const state = () => {
    const columns = find("column").value === "all" ? [...Array(data.gallery.columns).keys()] : [Number(find("column").value)];
    const rows = ordered(data, find("order").value, find("setting").value, find("score").value);
    return { rows, columns, top: rows.slice(0, Number(find("count").value)), settings: all.filter((group) => shown.has(group)) };
  };
  const draw = () => {
    const { rows, columns, top, settings } = state(), grid = document.createElement("table"), head = document.createElement("tr"), score = find("score").value;
    head.append(...["prompt", ...settings.map((group) => group || "base")].map((text) => Object.assign(line("th", text), { scope: "col" })));
    grid.createTHead().append(head);
    const body = grid.createTBody();
    top.forEach((row) => {
      const entry = body.insertRow(), name = Object.assign(line("th", data.gallery.prompts[row]), { scope: "row" });
      entry.append(name, ...settings.map((group) => {
        const cell = document.createElement("td"), change = group && score ? changeAt(data, group, score, row) : undefined;
        const images = document.createElement("div");
        images.append(...columns.map((column) => cellButton(data, group, row, column, (r, c) => enlargeCells(data, settings, rows, r, c))));
        cell.append(images, line("small", change === undefined ? "" : `Δ ${score} ${signed(change)}`, change ? (change * (data.better[score] || 1) < 0 ? "down" : "up") : "even"));
        return cell;
      }));
    });
    table.replaceChildren(grid);
    find("score").disabled = find("setting").disabled = find("order").value === "none";
  };
  box.querySelectorAll("select").forEach((select) => select.addEventListener("change", draw));
  box.querySelector(".export").addEventListener("click", () => { const { top, columns, settings } = state(); exportGallery(data, settings, top, columns, status); });
  draw();
  return (group) => {
    if (!groups.includes(group)) return;
    find("setting").value = group;
    shown.add(group);
    boxes[all.indexOf(group)].querySelector("input").checked = true;
    draw();
  };
}
