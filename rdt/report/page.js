// Joins the plots of a comparison to its legend, its switch, its pinned panel, the keyboard and the page's address.
function axisTitle(data, absolute) {
  return (name) => `${absolute || data.plain.includes(name) ? "" : "Δ "}${name}${data.units[name] ? `, ${data.units[name]}` : ""}`;
}

// Returns what the corners of a freely chosen view mean; nothing where an axis has no better side.
function named(data, x, y) {
  const a = data.better[x], b = data.better[y];
  if (!a || !b || x === y) return null;
  const words = (u, v) => (u * a > 0 && v * b > 0 ? "better in both" : u * a < 0 && v * b < 0 ? "worse in both" : u * a > 0 ? `better ${x}, worse ${y}` : `better ${y}, worse ${x}`);
  return [words(1, 1), words(-1, 1), words(1, -1), words(-1, -1)];
}

function download(plot, name) {
  const svg = plot.querySelector("svg").cloneNode(true), style = getComputedStyle(document.documentElement);
  svg.setAttribute("xmlns", "http" + "://www.w3.org/2000/svg");
  const rules = document.createElement("style");
  rules.textContent = "text{font:12px sans-serif;fill:var(--quiet)} .name{fill:var(--ink)} .label{font-size:11px;fill:var(--ink)} .quadrant{font-size:11px;font-style:italic} .hit{fill:none}";
  svg.prepend(rules);
  save(`${name}.svg`, svg.outerHTML.replace(/var\((--\w+)\)/g, (_, key) => style.getPropertyValue(key).trim()), "image/svg+xml");
}

function chart(script) {
  const data = JSON.parse(script.textContent), all = [...document.querySelectorAll(`[data-for="${data.id}"]`)];
  const find = (css) => all.flatMap((box) => [...box.querySelectorAll(css)]);
  const off = new Set(), plots = find(".plot"), [selectX, selectY] = find("select"), panel = find(".pins")[0], hover = find(".tip")[0];
  let absolute = false, pins = [], shown = null;

  const view = (plot, index) => {
    const plane = plot.dataset.plane && data.planes[plot.dataset.plane], W = Math.max(280, plot.clientWidth);
    const [x, y] = plane ? [plane.x, plane.y] : [selectX.value, selectY.value];
    const names = absolute ? null : plane ? plane.names : named(data, x, y);
    return { W, H: plane ? Math.min(W * 0.92, 360) : Math.min(Math.max(W * 0.62, 300), 470), x, y, names, absolute, clip: `${data.id}-clip${index}`, title: axisTitle(data, absolute) };
  };
  const draw = () => plots.forEach((plot, index) => {
    plot.innerHTML = picture(data, view(plot, index), off);
    plot.querySelector("[data-tip]")?.setAttribute("tabindex", "0");
    pins.forEach((k) => plot.querySelectorAll(`[data-tip="${k}"]`).forEach((g) => g.classList.add("pinned")));
  });
  const remember = () => history.replaceState(null, "", `#${data.id}=${[selectX.value, selectY.value, absolute ? "absolute" : "difference", ...pins].map(encodeURIComponent).join(",")}`);
  const redraw = () => { draw(); remember(); };
  const close = () => { const from = pins[0]; pin([]); plots[0].querySelector(`[data-tip="${from}"]`)?.focus(); };
  const pin = (wanted) => { pins = wanted; showPins(panel, data, pins, close); redraw(); };
  const choose = (k, more) => {
    pin(more && pins.length ? [...pins.filter((one) => one !== k), k].slice(-2) : [k]);
    hover.hidden = true;
    panel.focus({ preventScroll: true });
    panel.scrollIntoView({ block: "nearest" });
  };
  // Moves the focus to the next point of a plot, from left to right.
  const step = (plot, mark, by) => {
    const marks = [...plot.querySelectorAll("[data-tip]")].sort((a, b) => a.querySelector(".hit").cx.baseVal.value - b.querySelector(".hit").cx.baseVal.value);
    const next = marks[(marks.indexOf(mark) + by + marks.length) % marks.length];
    marks.forEach((one) => one.setAttribute("tabindex", one === next ? "0" : "-1"));
    next.focus();
  };
  const tell = (k, event) => {
    hover.hidden = false;
    if (shown !== k) hover.replaceChildren(...tip(data.points[shown = k]));
    place(hover, event);
  };

  plots.forEach((plot) => {
    const over = (event) => {
      const mark = event.target.closest("[data-tip]");
      mark ? tell(Number(mark.dataset.tip), event) : (hover.hidden = true);
    };
    plot.addEventListener("pointermove", over);
    plot.addEventListener("pointerleave", () => { hover.hidden = true; });
    plot.addEventListener("focusin", (event) => {
      const mark = event.target.closest("[data-tip]"), box = mark?.querySelector(".hit").getBoundingClientRect();
      if (mark?.matches(":focus-visible")) tell(Number(mark.dataset.tip), { clientX: box.right, clientY: box.bottom });
    });
    plot.addEventListener("focusout", () => { hover.hidden = true; });
    plot.addEventListener("click", (event) => {
      const mark = event.target.closest("[data-tip]");
      if (mark) choose(Number(mark.dataset.tip), event.shiftKey);
    });
    plot.addEventListener("keydown", (event) => {
      const mark = event.target.closest("[data-tip]"), by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
      if (!mark) return;
      if (by) step(plot, mark, by);
      else if (event.key === "Enter" || event.key === " ") choose(Number(mark.dataset.tip), event.shiftKey);
      else return;
      event.preventDefault();
    });
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && pins.length && !document.querySelector("dialog")) close(); });
  find(".keys button").forEach((key) => key.addEventListener("click", () => {
    const method = key.dataset.method;
    off.has(method) ? off.delete(method) : off.add(method);
    find(`.keys button`).filter((one) => one.dataset.method === method).forEach((one) => one.setAttribute("aria-pressed", String(!off.has(method))));
    draw();
  }));
  const turn = (wanted) => {
    absolute = wanted;
    find(".switch button").forEach((one) => one.setAttribute("aria-pressed", String((one.dataset.view === "absolute") === absolute)));
  };
  find(".switch button").forEach((one) => one.addEventListener("click", () => { turn(one.dataset.view === "absolute"); redraw(); }));
  find(".svg").forEach((button) => button.addEventListener("click", () => download(button.parentElement.querySelector(".plot"), button.dataset.file)));
  [selectX, selectY].forEach((select) => select.addEventListener("change", redraw));
  const kept = location.hash.slice(1).split("=");
  if (kept[0] === data.id && kept[1]) {
    const [x, y, mode, ...wanted] = kept[1].split(",").map(decodeURIComponent);
    const known = [...selectX.options].map((option) => option.value);
    if (known.includes(x) && known.includes(y)) [selectX.value, selectY.value] = [x, y];
    turn(mode === "absolute");
    pins = wanted.map(Number).filter((k) => data.points[k]).slice(0, 2);
    showPins(panel, data, pins, close);
  }
  let wide = 0;
  new ResizeObserver(() => { if (plots[0].clientWidth !== wide) { wide = plots[0].clientWidth; draw(); } }).observe(plots[0]);
  draw();
}

document.querySelectorAll("script[data-chart]").forEach(chart);
