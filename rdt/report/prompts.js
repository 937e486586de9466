// The paired differences of one setting and score prompt by prompt, sorted, with their mean and its interval.
function forest(box, data) {
  const found = (name) => box.querySelector(`[data-of="${name}"]`), plot = box.querySelector(".forest"), known = data.byPrompt;
  const groups = Object.keys(known.rows), names = Object.keys(known.rows[groups[0]]);
  choice(found("setting"), groups.map((name) => [name, name]), groups[0]);
  choice(found("score"), names.map((name) => [name, name]), names[0]);
  const draw = () => {
    const [group, score] = [found("setting").value, found("score").value], values = known.rows[group][score];
    plot.innerHTML = values ? forestPicture(data, group, score, values, Math.max(300, plot.clientWidth)) : "<p class='quiet'>Not measured at every prompt.</p>";
  };
  box.querySelectorAll("select").forEach((select) => select.addEventListener("change", draw));
  let wide = 0;
  new ResizeObserver(() => { if (plot.clientWidth !== wide) { wide = plot.clientWidth; draw(); } }).observe(plot);
  draw();
  return (group) => { if (groups.includes(group)) { found("setting").value = group; draw(); } };
}

function forestPicture(data, group, score, values, W) {
  const side = data.better[score] || 1, rows = values.map((value, k) => [value, promptOf(data, k)]).sort((a, b) => side * (a[0] - b[0]));
  const left = Math.min(260, W * 0.42), step = 19, H = 26 + rows.length * step + 34, p = data.points.find((one) => one.kind === "mean" && one.group === group);
  const mean = p?.diffs[score], bounds = [0, ...values, ...(mean ? mean.slice(1, 3) : [])];
  const lo = Math.min(...bounds), hi = Math.max(...bounds), pad = (hi - lo || 1) * 0.05;
  const at = (x) => left + 10 + ((x - lo + pad) / (hi - lo + 2 * pad)) * (W - left - 24);
  const grid = ticks(lo - pad, hi + pad, Math.max(3, (W - left) / 95)).map((t) => `<line stroke="var(--line)" x1="${at(t)}" x2="${at(t)}" y1="8" y2="${H - 34}"/><text x="${at(t)}" y="${H - 18}" text-anchor="middle">${brief(t)}</text>`);
  const band = mean ? `<rect x="${at(mean[1])}" width="${Math.max(1, at(mean[2]) - at(mean[1]))}" y="8" height="${H - 42}" fill="${p.colour}" opacity=".16"/><line x1="${at(mean[0])}" x2="${at(mean[0])}" y1="8" y2="${H - 34}" stroke="${p.colour}" stroke-width="1.6"/>` : "";
  const most = Math.floor(left / 7.2), cut = (text) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
  const marks = rows.map(([value, prompt], k) => {
    const y = 20 + k * step, hue = side * value < 0 ? "var(--down)" : "var(--up)";
    return `<g><title>${safe(prompt)}: ${signed(value)}</title><text x="${left}" y="${y + 4}" text-anchor="end">${safe(cut(prompt))}</text>
      <path d="M${at(0)} ${y}H${at(value)}" stroke="${hue}" stroke-width="1.6"/><circle cx="${at(value)}" cy="${y}" r="4.2" fill="${hue}"/></g>`;
  });
  const better = values.filter((value) => side * value > 0).length, words = `Δ ${score} of ${group}: ${better} of ${values.length} prompts gain`;
  return `<p class="quiet">${safe(words)}${mean ? `; mean ${safe(range(mean, signed))}, the band` : ""}. Worst first.</p>
    <svg width="${W}" height="${H}" viewBox="0 0 ${W} ${H}" role="img" aria-label="${safe(words)}">${grid.join("")}${band}<path d="M${at(0)} 8V${H - 34}" stroke="var(--quiet)"/>${marks.join("")}
    <text class="name" x="${(left + W) / 2}" y="${H - 3}" text-anchor="middle">Δ ${safe(score)} to the base</text></svg>`;
}

function promptOf(data, k) {
  return data.byPrompt.prompts[k];
}
