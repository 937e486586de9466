"use strict";
// One interactive scatter per comparison: data in <script type="application/json">, drawn as inline SVG.
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

function mark(p, index, sx, sy, x, y) {
  const a = p.scores[x], b = p.scores[y], cx = sx.at(a[0]), cy = sy.at(b[0]);
  const bars = p.kind === "seed" ? "" : `<path d="M${sx.at(a[1])} ${cy}H${sx.at(a[2])}M${cx} ${sy.at(b[1])}V${sy.at(b[2])}" stroke="${p.colour}" stroke-width="1.3"/>`;
  const dot = p.kind === "base" ? `<path d="M${cx} ${cy - 7}l7 7l-7 7l-7 -7z" fill="${p.colour}" stroke="#fff"/>`
    : `<circle cx="${cx}" cy="${cy}" r="${p.kind === "seed" ? 3.5 : 6.5}" fill="${p.colour}" fill-opacity="${p.kind === "seed" ? 0.5 : 1}" stroke="#fff"/>`;
  return `<g data-tip="${index}">${bars}${dot}</g>`;
}

function tip(p) {
  const rows = Object.entries(p.scores).map(([name, s]) => {
    const bounds = s[1] === s[2] ? "" : ` [${brief(s[1])}, ${brief(s[2])}]`;
    return `${name}  ${brief(s[0])}${bounds}`;
  });
  return [p.name, ...rows].join("\n");
}

function chart(box) {
  const data = JSON.parse(box.querySelector("script").textContent);
  const [selectX, selectY] = box.querySelectorAll("select"), plot = box.querySelector(".plot"), hover = box.querySelector(".tip");
  const off = new Set();
  const draw = () => {
    const x = selectX.value, y = selectY.value;
    const points = data.points.filter((p) => p.scores[x] && p.scores[y] && !off.has(p.method));
    if (!points.length) { plot.innerHTML = "<p class='quiet'>Nothing carries both of these scores.</p>"; return; }
    const sx = scale(points, x, LEFT, W - RIGHT), sy = scale(points, y, H - BOTTOM, TOP);
    const clip = `<clipPath id="${data.id}-clip"><rect x="${LEFT}" y="${TOP}" width="${W - LEFT - RIGHT}" height="${H - TOP - BOTTOM}"/></clipPath>`;
    const marks = points.map((p) => mark(p, data.points.indexOf(p), sx, sy, x, y)).join("");
    plot.innerHTML = `<svg viewBox="0 0 ${W} ${H}" role="img">${clip}${axes(sx, sy, x, y)}${limits(data, sx, sy, x, y)}${marks}</svg>`;
  };
  plot.addEventListener("pointermove", (event) => {
    const target = event.target.closest("[data-tip]");
    hover.hidden = !target;
    if (!target) return;
    hover.textContent = tip(data.points[target.dataset.tip]);
    const frame = box.getBoundingClientRect(), left = event.clientX - frame.left;
    hover.style.left = `${Math.max(0, left + 16 + hover.offsetWidth > frame.width ? left - hover.offsetWidth - 12 : left + 16)}px`;
    hover.style.top = `${event.clientY - frame.top + 12}px`;
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
