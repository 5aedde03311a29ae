// The reviewer's desk: one item at a time. Each answer brings the next item with it.

import { Problem, post } from "./calls.js";
import { fill, h, isTyping } from "./dom.js";
import { about, makeTask, percent } from "./tasks.js";

const DRAFT_MS = 600;
// Others' answers are in the count too; one's own are counted here as they are given.
const COUNT_MS = 30_000;
const WARN_MS = 60_000;
// A second press at the same place, so soon after an item came up, meant the item before.
const AGAIN_MS = 300;
const AGAIN_PX = 10;
const page = Object.fromEntries(
  ["stage", "side", "question", "model", "status", "problem", "progress", "bar", "item-name", "lease", "once", "once-row", "submit", "submit-key", "grid-link", "actions", "work", "empty", "empty-title", "empty-text", "recall", "undo", "undo-empty"].map(
    (id) => [id, document.getElementById(id)],
  ),
);

const desk = {
  item: null,
  task: null,
  busy: false,
  dirty: null,
  saving: null,
  touched: false,
  counts: { waiting: 0, answered: 0, skipped: 0 },
  countedAt: 0,
  shownAt: 0,
  pressed: null,
  away: 0,
  hiddenAt: null,

  once: () => page.once.checked,

  changed() {
    desk.touched = true;
    clearTimeout(desk.dirty);
    desk.dirty = setTimeout(desk.saveDraft, DRAFT_MS);
  },

  async saveDraft(options = {}) {
    clearTimeout(desk.dirty);
    desk.dirty = null;
    const { item } = desk;
    const draft = desk.task?.answer();
    if (!item || !draft || desk.busy) return;
    desk.saving = post("draft", { loop: item.loop, draft }, options);
    try {
      await desk.saving;
      page.status.textContent = "Draft kept.";
    } catch (problem) {
      // Of an item that is answered or left meanwhile, a draft is of no use.
      if (desk.item === item && !desk.busy) tell(problem);
    } finally {
      desk.saving = null;
    }
  },

  async submit(checked = false) {
    if (!desk.item || desk.busy) return;
    if (desk.task.ask && !checked) {
      desk.task.ask();
      return;
    }
    const answer = desk.task.answer();
    if (!answer) {
      tell(new Problem(400, desk.task.missing()));
      return;
    }
    const body = { loop: desk.item.loop, answer, spent_ms: spent(), next: true };
    await act(async () => {
      const { items } = await post("answer", body);
      desk.counts.answered += 1;
      desk.counts.waiting -= 1;
      show(items[0], "Answered. ");
    });
  },

  async skip() {
    if (!desk.item) return;
    await desk.keepDraft();
    await act(async () => {
      const { items } = await post("skip", { loop: desk.item.loop, next: true });
      desk.counts.skipped += 1;
      desk.counts.waiting -= 1;
      show(items[0], "Skipped. ");
    });
  },

  async undo() {
    await desk.keepDraft();
    await act(async () => {
      const held = desk.item;
      const { items } = await post("undo");
      // What cannot be given back stays theirs: it comes next, or its time is over some day.
      if (held) await post("release", { loops: [held.loop] }).catch(() => {});
      desk.counts.answered -= 1;
      desk.counts.waiting += 1;
      show(items[0], "Your last answer is back. ");
    });
  },

  /** Keep what was entered a moment ago, before the item is left. */
  async keepDraft() {
    if (desk.dirty && !desk.busy) await desk.saveDraft();
  },

  async recall() {
    await act(async () => {
      await post("recall");
      await load("");
    });
  },

  /** Take one of the desk's keys; tell whether it was one. */
  key(key) {
    const keys = { s: desk.skip, u: desk.undo, g: () => location.assign(page.actions.dataset.grid), "?": () => document.getElementById("keys").showModal() };
    const run = keys[key.toLowerCase()];
    if (run) run();
    return Boolean(run);
  },
};

async function act(work) {
  if (desk.busy) return;
  desk.busy = true;
  clearTimeout(desk.dirty);
  page.work.setAttribute("aria-busy", "true");
  try {
    // A draft that is under way comes first: after the answer it would be refused.
    if (desk.saving) await desk.saving.catch(() => {});
    await work();
    page.problem.hidden = true;
  } catch (problem) {
    tell(problem);
    // Closed, or answered by others meanwhile: there is nothing left to do here.
    if (problem.status === 409 && desk.item) offerNext();
  } finally {
    desk.busy = false;
    page.work.removeAttribute("aria-busy");
  }
}

function tell(problem) {
  if (!(problem instanceof Problem)) throw problem;
  fill(page.problem, sentence(problem.message));
  page.problem.hidden = false;
}

function sentence(text) {
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(first) ? first : `${first}.`;
}

function offerNext() {
  page.problem.append(" ", h("button", { type: "button", class: "quiet", onclick: () => act(() => load("")) }, "Next item"));
}

async function load(said) {
  const [{ items }, { counts }] = [await post("next"), await post("counts")];
  desk.counts = counts;
  desk.countedAt = performance.now();
  show(items[0], said);
}

function show(item, said) {
  desk.task?.close();
  desk.item = item ?? null;
  desk.task = null;
  desk.touched = Boolean(item?.draft);
  page.work.hidden = !item;
  page.empty.hidden = Boolean(item);
  if (!item) {
    page["grid-link"].hidden = true;
    showEmpty(said);
    return;
  }
  desk.task = makeTask(item, desk);
  fill(page.stage, desk.task.stage);
  page.question.textContent = item.view.header || page.question.dataset.title;
  page["item-name"].textContent = item.name;
  fill(page.model, modelSays(item));
  fill(page.side, desk.task.side, ...about(item));
  page["once-row"].hidden = item.view.kind !== "classify" || item.view.multiple;
  page.work.dataset.kind = item.view.kind;
  page.submit.hidden = item.view.kind === "broken";
  page["submit-key"].textContent = ["form", "frame"].includes(item.view.kind) ? "Ctrl Enter" : "Enter";
  page["grid-link"].hidden = item.view.kind !== "classify" || item.model.answer === null;
  desk.shownAt = performance.now();
  desk.away = 0;
  page.status.textContent = `${said}Next item. ${page.model.textContent}`;
  if (desk.task.focus) desk.task.focus();
  else if (document.activeElement && document.activeElement !== document.body) page.question.focus();
  progress();
  if (performance.now() - desk.countedAt >= COUNT_MS) recount();
}

function modelSays(item) {
  const { answer, confidence } = item.model;
  if (answer === null && confidence === null) return null;
  const certain = confidence === null ? "" : percent(confidence);
  if (answer === null) return `The model's confidence: ${certain}`;
  return h("span", {}, "The model says ", h("strong", {}, answer || "none"), certain ? `, ${certain} sure` : "");
}

function showEmpty(said) {
  const { skipped, answered } = desk.counts;
  page["empty-text"].textContent = `${said}Nothing is waiting for you in this queue. You have answered ${answered}.`;
  page["empty-title"].textContent = answered ? "All done here" : "Nothing waits here";
  page.recall.hidden = skipped < 1;
  page.recall.textContent = `Take up the ${skipped} you skipped`;
  page.status.textContent = page["empty-text"].textContent;
  progress();
}

function progress() {
  const { answered, waiting } = desk.counts;
  const all = answered + Math.max(waiting, 0);
  page.progress.textContent = `${answered} answered, ${Math.max(waiting, 0)} to go`;
  page.bar.max = Math.max(all, 1);
  page.bar.value = answered;
  page.undo.disabled = answered < 1;
  page["undo-empty"].hidden = answered < 1;
}

async function recount() {
  desk.countedAt = performance.now();
  try {
    desk.counts = (await post("counts")).counts;
    progress();
  } catch {
    // The next answer will tell what is wrong.
  }
}

function spent() {
  const hidden = desk.hiddenAt === null ? 0 : performance.now() - desk.hiddenAt;
  return Math.max(0, Math.round(performance.now() - desk.shownAt - desk.away - hidden));
}

function watchLease() {
  if (!desk.item?.held_until) return;
  const left = desk.item.held_until - Date.now();
  page.lease.hidden = left > WARN_MS;
  if (left > WARN_MS) return;
  const seconds = Math.max(0, Math.round(left / 1000));
  fill(
    page.lease,
    left > 0 ? `Kept for you for another ${seconds} s. ` : "Your time is over; you can still answer while nobody else has. ",
    h("button", { type: "button", class: "quiet", onclick: () => act(keep) }, "Keep it longer"),
  );
}

async function keep() {
  const { items } = await post("open", { loop: desk.item.loop });
  desk.item.held_until = items[0].held_until;
  watchLease();
}

document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  // A key that is held answers one item, not all that follow.
  if (event.repeat && event.key === "Enter") {
    event.preventDefault();
    return;
  }
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    desk.submit();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  // A dialog that was just closed keeps the focus until the next frame.
  const control = event.target.closest("button, a, summary");
  if (event.key === "Enter" && (!control || control.closest("dialog"))) {
    event.preventDefault();
    desk.submit();
  } else if (!event.repeat && (desk.task?.key(event) || desk.key(event.key))) {
    event.preventDefault();
  }
});
// A double click answers one item: its second half, which finds the next one there, does nothing.
page.work.addEventListener("click", (event) => {
  if (!event.detail) return; // a key
  const before = desk.pressed;
  desk.pressed = { x: event.clientX, y: event.clientY, at: performance.now() };
  if (!before || before.at > desk.shownAt) return;
  const near = Math.hypot(event.clientX - before.x, event.clientY - before.y) < AGAIN_PX;
  if (event.detail > 1 || (near && performance.now() - desk.shownAt < AGAIN_MS)) {
    event.preventDefault();
    event.stopPropagation();
  }
}, true);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    desk.hiddenAt = performance.now();
    if (desk.dirty) desk.saveDraft({ keepalive: true });
  } else if (desk.hiddenAt !== null) {
    desk.away += performance.now() - desk.hiddenAt;
    desk.hiddenAt = null;
  }
});
// Who looks and leaves keeps nobody waiting; what has been worked on stays theirs until its time is over.
addEventListener("pagehide", () => {
  if (!desk.item || desk.touched || desk.busy) return;
  post("release", { loops: [desk.item.loop] }, { keepalive: true }).catch(() => {});
});
addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});
page.submit.addEventListener("click", () => desk.submit());
for (const name of ["skip", "undo", "recall"]) {
  document.getElementById(name).addEventListener("click", () => desk[name]());
}
document.getElementById("undo-empty").addEventListener("click", () => desk.undo());
document.getElementById("help").addEventListener("click", () => desk.key("?"));
page.once.checked = localStorage.getItem("review-once") !== "no";
page.once.addEventListener("change", () => localStorage.setItem("review-once", page.once.checked ? "yes" : "no"));
setInterval(watchLease, 1000);
act(() => load(""));
