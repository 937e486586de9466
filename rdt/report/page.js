"use strict";
// Draws one interactive scatter per comparison as inline SVG, from the data in its <script type="application/json">.
// `rdt.report.scatter` writes the data. scores[name] of a point is [mean, lower bound, upper bound].
const W = 1040, H = 470, LEFT = 62, RIGHT = 18, TOP = 14, BOTTOM = 42;
const safe = (text) => String(text).replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" }[c]));
const brief = (x) => Number(x.toPrecision(4)).toString();

function ticks(lo, hi) {
  const raw = (hi - lo) / 7, unit = 10 ** Math.floor(Math.log10(raw));
  const step = unit * [1, 2, 2.5, 5, 10].find((k) => k * unit >= raw);
  const out = [];
  for (let k = Math.ceil(lo / step); k * step <= hi; k++) out.push(k * step);
  return out;
}

function scale(points, name, from, to) {
  const bounds = points.flatMap((p) => p.scores[name].slice(1, 3));
  let lo = Math.min(...bounds), hi = Math.max(...bounds);
  const pad = (hi - lo || Math.abs(hi) || 1) * 0.08;
  lo -= pad; hi += pad;
  return { lo, hi, at: (x) => from + ((x - lo) / (hi - lo)) * (to - from) };
}

function axes(sx, sy, x, y) {
  const across = ticks(sx.lo, sx.hi).map((t) => `<line class="axis" x1="${sx.at(t)}" x2="${sx.at(t)}" y1="${TOP}" y2="${H - BOTTOM}"/>
    <text x="${sx.at(t)}" y="${H - BOTTOM + 17}" text-anchor="middle">${brief(t)}</text>`);
  const up = ticks(sy.lo, sy.hi).map((t) => `<line class="axis" x1="${LEFT}" x2="${W - RIGHT}" y1="${sy.at(t)}" y2="${sy.at(t)}"/>
    <text x="${LEFT - 8}" y="${sy.at(t) + 4}" text-anchor="end">${brief(t)}</text>`);
  const names = `<text x="${W - RIGHT}" y="${H - 6}" text-anchor="end">${safe(x)} →</text><text x="${LEFT + 6}" y="${TOP + 10}">↑ ${safe(y)}</text>`;
  return across.join("") + up.join("") + names;
}

function limits(data, sx, sy, x, y) {
  return data.curves.filter((c) => (c.x === x && c.y === y) || (c.x === y && c.y === x)).map((c) => {
    const path = c.points.map((p) => (c.x === x ? p : [p[1], p[0]])).map((p) => `${sx.at(p[0])},${sy.at(p[1])}`).join(" ");
    return `<polyline points="${path}" fill="none" stroke="#6b7684" stroke-width="1.5" stroke-dasharray="${c.dash}" clip-path="url(#${data.id}-clip)"/>`;
  }).join("");
}

// Returns, by method, its points and those of them and the base that none of these dominates. Returns nothing if an
// axis has no better direction.
function fronts(points, better, x, y) {
  const a = better[x], b = better[y], means = points.filter((p) => p.kind === "mean");
  const beats = (q, p) => {
    const over = a * (q.scores[x][0] - p.scores[x][0]), up = b * (q.scores[y][0] - p.scores[y][0]);
    return over >= 0 && up >= 0 && (over > 0 || up > 0);
  };
  return a && b ? [...new Set(means.map((p) => p.method))].map((method) => {
    const own = points.filter((p) => p.kind === "base" || (p.kind === "mean" && p.method === method));
    const best = own.filter((p) => !own.some((q) => beats(q, p))).sort((p, q) => p.scores[x][0] - q.scores[x][0]);
    return { method, own, best, colour: own.at(-1).colour };
  }) : [];
}

// Draws a front as a line through its means, in a band between the worse and the better corners of their intervals.
function band(front, better, sx, sy, x, y) {
  const at = (p, side) => `${sx.at(p.scores[x][side && 1 + (side * better[x] + 1) / 2])},${sy.at(p.scores[y][side && 1 + (side * better[y] + 1) / 2])}`;
  const edge = [...front.best.map((p) => at(p, 1)), ...front.best.map((p) => at(p, -1)).reverse()];
  return `<g data-front="${safe(front.method)}"><polygon points="${edge.join(" ")}" fill="${front.colour}" opacity=".12"/>
    <polyline points="${front.best.map((p) => at(p, 0)).join(" ")}" fill="none" stroke="${front.colour}" stroke-width="1.8" opacity=".6"/></g>`;
}

function mark(p, index, hollow, sx, sy, x, y) {
  const a = p.scores[x], b = p.scores[y], cx = sx.at(a[0]), cy = sy.at(b[0]);
  const bars = p.kind === "seed" ? "" : `<path d="M${sx.at(a[1])} ${cy}H${sx.at(a[2])}M${cx} ${sy.at(b[1])}V${sy.at(b[2])}" stroke="${p.colour}" stroke-width="1.3"/>`;
  const hue = hollow.has(p) ? `fill="#fff" stroke="${p.colour}" stroke-width="1.5"` : `fill="${p.colour}" stroke="#fff"`;
  const dot = p.kind === "base" ? `<path d="M${cx} ${cy - 7}l7 7l-7 7l-7 -7z" fill="${p.colour}" stroke="#fff"/>`
    : `<circle cx="${cx}" cy="${cy}" r="${p.kind === "seed" ? 3.5 : 6.5}" ${hue} fill-opacity="${p.kind === "seed" ? 0.5 : 1}"/>`;
  return `<g data-tip="${index}">${bars}${dot}</g>`;
}

function line(tag, text) {
  return Object.assign(document.createElement(tag), { textContent: text });
}

// Returns what hovering over a point shows: its name, settings, scores and command, and its samples, which are copied
// from the page's own grid.
function tip(p) {
  const words = document.createElement("div"), grid = p.grid && document.getElementById(p.grid);
  const rows = Object.entries(p.scores).map(([name, s]) => `${name}  ${brief(s[0])}${s[1] === s[2] ? "" : ` [${brief(s[1])}, ${brief(s[2])}]`}`);
  words.append(line("b", p.name), line("p", p.config || ""), line("p", rows.join("\n")), line("code", p.command || ""));
  if (!grid) return [words];
  const picture = document.createElement("figure"), copy = new Image();
  copy.src = grid.src;
  copy.alt = grid.alt;
  picture.append(copy, line("figcaption", p.drawn || ""));
  return [words, picture];
}

function place(hover, event) {
  const fits = (at, size, room) => Math.max(8, at + 16 + size > room - 8 ? Math.min(at - 16 - size, room - 8 - size) : at + 16);
  hover.style.left = `${fits(event.clientX, hover.offsetWidth, innerWidth)}px`;
  hover.style.top = `${Math.max(8, Math.min(event.clientY + 12, innerHeight - hover.offsetHeight - 8))}px`;
}

function chart(box) {
  const data = JSON.parse(box.querySelector("script").textContent);
  const [selectX, selectY] = box.querySelectorAll("select"), plot = box.querySelector(".plot"), hover = box.querySelector(".tip");
  const off = new Set();
  let shown = null;
  const draw = () => {
    const x = selectX.value, y = selectY.value;
    const points = data.points.filter((p) => p.scores[x] && p.scores[y] && !off.has(p.method));
    if (!points.length) { plot.innerHTML = "<p class='quiet'>No point has both of these scores.</p>"; return; }
    const sx = scale(points, x, LEFT, W - RIGHT), sy = scale(points, y, H - BOTTOM, TOP);
    const found = fronts(points, data.better, x, y), hollow = new Set(found.flatMap((f) => f.own.filter((p) => p.kind === "mean" && !f.best.includes(p))));
    const bands = found.map((f) => band(f, data.better, sx, sy, x, y)).join("");
    const clip = `<clipPath id="${data.id}-clip"><rect x="${LEFT}" y="${TOP}" width="${W - LEFT - RIGHT}" height="${H - TOP - BOTTOM}"/></clipPath>`;
    const marks = points.map((p) => mark(p, data.points.indexOf(p), hollow, sx, sy, x, y)).join("");
    plot.innerHTML = `<svg viewBox="0 0 ${W} ${H}" role="img">${clip}${axes(sx, sy, x, y)}${limits(data, sx, sy, x, y)}${bands}${marks}</svg>`;
  };
  plot.addEventListener("pointermove", (event) => {
    const target = event.target.closest("[data-tip]");
    hover.hidden = !target;
    if (!target) return;
    if (shown !== target.dataset.tip) hover.replaceChildren(...tip(data.points[shown = target.dataset.tip]));
    place(hover, event);
  });
  plot.addEventListener("pointerleave", () => { hover.hidden = true; });
  box.querySelectorAll(".keys button").forEach((key) => key.addEventListener("click", () => {
    const method = key.dataset.method;
    off.has(method) ? off.delete(method) : off.add(method);
    key.classList.toggle("off", off.has(method));
    draw();
  }));
  [selectX, selectY].forEach((select) => select.addEventListener("change", draw));
  draw();
}

document.querySelectorAll(".scatter").forEach(chart);
