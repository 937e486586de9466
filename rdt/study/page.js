"use strict";
// Everything works by keyboard. Every answer is stored in the browser at once, under the study's id.
const study = JSON.parse(document.getElementById("study").textContent);
const SLOT = `rdt-study-${study.study}`;
const QUESTIONS = Object.keys(study.questions), TOTAL = study.pairs.length * QUESTIONS.length;
const ANSWER = { 1: "left", ArrowLeft: "left", 2: "tie", ArrowDown: "tie", 3: "right", ArrowRight: "right" };
const find = (id) => document.getElementById(id);

let state = remembered() || fresh(), since = 0; // since: when the current question was shown, in ms

function fresh() {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  return { rater: Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join(""), name: "", answers: [], saved: 0 };
}

function remembered() {
  try { return JSON.parse(localStorage.getItem(SLOT)); } catch { return null; }
}

function remember() {
  try { localStorage.setItem(SLOT, JSON.stringify(state)); } catch { say("This browser stores nothing: save before you close."); }
}

const say = (words) => { find("saved").textContent = words; };
const view = () => document.body.dataset.view;
function show(name) {
  document.body.dataset.view = name;
  for (const part of document.querySelectorAll("[data-of]")) part.hidden = part.dataset.of !== name;
  const step = state.answers.length, bar = find("bar");
  const pair = Math.min(Math.floor(step / QUESTIONS.length) + 1, study.pairs.length);
  find("count").textContent = name === "start" ? `${study.pairs.length} pairs` : `${pair} of ${study.pairs.length}`;
  bar.setAttribute("aria-valuemax", TOTAL);
  bar.setAttribute("aria-valuenow", step);
  bar.firstElementChild.style.width = `${100 * step / TOTAL}%`;
}

function picture(address) {
  const image = Object.assign(new Image(), { alt: "", draggable: false });
  image.onload = () => image.classList.toggle("small", image.naturalWidth <= 128);
  image.src = address;
  return image;
}

function pictures(side, images) {
  const across = Math.ceil(Math.sqrt(images.length));
  side.style.setProperty("--across", across);
  side.style.setProperty("--down", Math.ceil(images.length / across));
  side.replaceChildren(...images.map((k) => picture(study.images[k])));
}

function ask() {
  const step = state.answers.length;
  if (step === TOTAL) return show("done");
  const pair = study.pairs[Math.floor(step / QUESTIONS.length)], question = step % QUESTIONS.length;
  if (find("prompt").dataset.pair !== pair.id) {
    Object.assign(find("prompt"), { textContent: pair.prompt }).dataset.pair = pair.id;
    for (const side of ["left", "right"]) pictures(find(side), pair[side].images);
  }
  find("question").textContent = study.questions[QUESTIONS[question]];
  find("dots").textContent = QUESTIONS.map((_, k) => (k < question ? "●" : k === question ? "◉" : "○")).join(" ");
  show("vote");
  since = performance.now();
}

function flash(button) {
  button.classList.add("given");
  setTimeout(() => button.classList.remove("given"), 150);
}

function answer(given) {
  flash(document.querySelector(`[data-answer=${given}]`));
  const seconds = Math.round(performance.now() - since) / 1000;
  state.answers.push({ answer: given, seconds, at: new Date().toISOString() });
  say("");
  remember();
  ask();
}

function undo() {
  if (!state.answers.pop()) return;
  state.saved = 0;
  remember();
  ask();
}

function votes() {
  const n = QUESTIONS.length;
  return study.pairs.slice(0, Math.ceil(state.answers.length / n)).map((pair, k) => {
    const given = state.answers.slice(k * n, k * n + n);
    return {
      pair: pair.id, prompt: pair.prompt, left: pair.left.id, right: pair.right.id, at: given.at(-1).at,
      answers: Object.fromEntries(given.map((one, i) => [QUESTIONS[i], one.answer])),
      seconds: Number(given.reduce((sum, one) => sum + one.seconds, 0).toFixed(3)),
    };
  });
}

function save() {
  const whole = { kind: "rdt study votes", version: study.version, study: study.study, rater: state.rater, name: state.name, votes: votes() };
  const name = `votes-${study.study}-${state.rater}.json`;
  const url = URL.createObjectURL(new Blob([JSON.stringify(whole, null, 1) + "\n"], { type: "application/json" }));
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
  state.saved = state.answers.length;
  remember();
  say(`Saved as ${name}`);
}

function next() {
  if (state.saved !== state.answers.length) return say("Save these answers first.");
  state = fresh();
  remember();
  welcome();
}

function welcome() {
  const step = state.answers.length;
  find("name").value = state.name;
  find("go").textContent = step ? `Go on after ${Math.floor(step / QUESTIONS.length)} of ${study.pairs.length}` : "Begin";
  say("");
  show("start");
  find("name").focus();
}

function begin(event) {
  event.preventDefault();
  state.name = find("name").value.trim();
  find("name").blur();
  remember();
  ask();
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (view() === "start") return event.key === "Enter" && event.target === document.body ? begin(event) : undefined;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const voting = view() === "vote", act = voting && ANSWER[key] ? () => answer(ANSWER[key])
    : { u: undo, Backspace: undo, s: save, n: next, Enter: voting ? null : save }[key];
  if (!act) return;
  event.preventDefault();
  act();
}

find("begin").addEventListener("submit", begin);
find("save").addEventListener("click", save);
for (const button of document.querySelectorAll("[data-answer]")) {
  button.addEventListener("click", () => { button.blur(); answer(button.dataset.answer); });
}
for (const button of document.querySelectorAll("[data-act]")) {
  button.addEventListener("click", () => { button.blur(); ({ u: undo, s: save, n: next })[button.dataset.act](); });
}
document.addEventListener("keydown", pressed);
welcome();
