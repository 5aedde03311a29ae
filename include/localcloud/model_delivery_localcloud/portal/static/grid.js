// Many items at once: leave out what the model got wrong, accept the rest.

import { Problem, flow, post } from "./calls.js";
import { fill, h } from "./dom.js";
import { percent } from "./tasks.js";

const PAGE = 24;
// A page that came up behind an accepted one has been seen by nobody: a press so soon meant that one.
const UNSEEN_MS = 700;
const cards = document.getElementById("cards");
const accept = document.getElementById("accept");
const status = document.getElementById("status");
const problem = document.getElementById("problem");
const left = document.getElementById("left");
const undo = document.getElementById("undo");
const state = { items: [], unfit: [], out: new Set(), accepted: [], shownAt: 0, unseenUntil: 0, aside: 0 };

async function load(said = "") {
  let items, count;
  do {
    count = PAGE + state.aside;
    ({ items } = await post("next", { count }));
    const fit = items.filter((item) => item.model.acceptable);
    // What was left out before, or has no answer to accept, stays for the desk.
    state.items = fit.filter((item) => !state.out.has(item.loop)).slice(0, PAGE);
    state.unfit = items.filter((item) => !fit.includes(item)).map((item) => item.loop);
    state.aside = items.length - state.items.length;
    // A page's worth may lie behind; fewer than were asked for are all that one person may hold.
  } while (state.items.length < PAGE && items.length === count);
  state.shownAt = performance.now();
  state.unseenUntil = said ? state.shownAt + UNSEEN_MS : 0;
  fill(cards, ...state.items.map(card));
  show(said);
}

function card(item) {
  const { answer, confidence } = item.model;
  const certain = confidence === null ? "" : percent(confidence);
  const button = h(
    "button",
    { type: "button", class: "card-item", "aria-pressed": "true", onclick: () => toggle(item, button) },
    item.view.image
      ? h("img", { src: item.view.image, alt: item.view.alt || "", loading: "lazy" })
      : h("span", { class: "snippet" }, item.view.text),
    h("span", { class: "verdict" }, h("strong", {}, answer || "none"), h("span", { class: "hint" }, certain)),
  );
  button.setAttribute("aria-label", `${item.view.text || item.name}: ${answer}, ${certain}`);
  return button;
}

function toggle(item, button) {
  const out = !state.out.delete(item.loop);
  if (out) state.out.add(item.loop);
  state.unseenUntil = 0;
  button.setAttribute("aria-pressed", String(!out));
  show("");
}

function show(said) {
  const kept = state.items.filter((item) => !state.out.has(item.loop)).length;
  accept.disabled = kept === 0;
  accept.textContent = kept ? `Accept ${kept}` : "Nothing to accept";
  const out = state.items.length - kept + state.aside;
  left.hidden = out === 0;
  left.textContent = `Review the other ${out} one by one`;
  undo.hidden = !state.accepted.length;
  undo.textContent = `Undo these ${state.accepted.length}`;
  if (!state.items.length) fill(cards, h("p", { class: "note" }, nothing(out)));
  status.textContent = said;
}

/** Why no card is shown: behind as many as one person may hold there may be others. */
function nothing(out) {
  if (!out) return "No item with an answer of the model is waiting.";
  return `Nothing more can be accepted for now: review the other ${out} first.`;
}

async function acceptAll() {
  if (accept.disabled || performance.now() < state.unseenUntil) return;
  const loops = state.items.filter((item) => !state.out.has(item.loop)).map((item) => item.loop);
  if (!loops.length) return;
  await act(async () => {
    const spent = Math.round(performance.now() - state.shownAt);
    const { accepted } = await post("accept", { loops, spent_ms: spent });
    state.accepted = loops;
    return `${accepted} accepted.`;
  });
}

/** Take the last accepted page back, as far as its outputs are not being written. */
async function undoAll() {
  const loops = state.accepted;
  if (undo.disabled || !loops.length) return;
  await act(async () => {
    state.accepted = [];
    const { retracted } = await post("retract", { loops });
    // What stands here comes again, after what is back.
    const shown = state.items.filter((item) => !state.out.has(item.loop)).map((item) => item.loop);
    if (shown.length) await post("release", { loops: shown });
    return retracted === loops.length ? `${retracted} are back.` : `${retracted} of ${loops.length} are back: the others are on their way.`;
  });
}

/** Do one thing at a time, and show what comes next with what was done. */
async function act(work) {
  accept.disabled = true;
  undo.disabled = true;
  try {
    const said = await work();
    problem.hidden = true;
    await load(said);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    problem.textContent = `${error.message}.`;
    problem.hidden = false;
    if (error.status === 409) await load("");
    else accept.disabled = false;
  } finally {
    undo.disabled = false;
  }
}

/** Give back what is held and left alone, so that others need not wait for it. */
function leave() {
  const kept = state.items.filter((item) => !state.out.has(item.loop)).map((item) => item.loop);
  const loops = [...kept, ...state.unfit];
  if (loops.length) post("release", { loops }, { keepalive: true }).catch(() => {});
}

accept.addEventListener("click", acceptAll);
undo.addEventListener("click", undoAll);
left.addEventListener("click", async () => {
  leave();
  state.items = [];
  state.unfit = [];
  location.assign(`/review/${flow}`);
});
addEventListener("pagehide", leave);
document.addEventListener("keydown", (event) => {
  if (event.repeat && event.key === "Enter") event.preventDefault();
  else if (event.key === "Enter" && !event.target.closest("button, a")) acceptAll();
  if (event.key.toLowerCase() === "u" && !event.repeat && !event.ctrlKey && !event.metaKey && !event.altKey) undoAll();
  const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!move) return;
  const all = [...cards.querySelectorAll("button")];
  all[Math.min(Math.max(all.indexOf(document.activeElement) + move, 0), all.length - 1)]?.focus();
  event.preventDefault();
});
load().catch((error) => {
  problem.textContent = error.message;
  problem.hidden = false;
});
