// The tasks of the portal's own pages. Each shows what is to be judged (`stage`) and how to answer
// (`side`), gives its answer in the layout of the element it stands for, and takes its own keys.

import { fill, h } from "./dom.js";
import { Viewer } from "./viewer.js";

const RESERVED = "sufg";
const SPARE = [..."qwertyiopadhjklxcvbnm"].filter((key) => !RESERVED.includes(key));

/** Make the task of an item. `desk` has `changed()`, called for each change, and `submit()`. */
export function makeTask(item, desk) {
  const made = { classify: Classify, moderate: Moderate, form: Form, frame: Frame }[item.view.kind];
  return made ? new made(item, desk) : new Broken(item);
}

/** Which key stands for each label: itself where all are single characters, else 1 to 9, 0, letters. */
export function hotkeys(labels) {
  const single = labels.every((label) => label.length === 1 && !RESERVED.includes(label.toLowerCase()) && /[0-9a-z]/i.test(label));
  if (single && new Set(labels.map((label) => label.toLowerCase())).size === labels.length) {
    return labels.map((label) => label.toLowerCase());
  }
  const keys = [..."1234567890", ...SPARE];
  return labels.map((_, index) => keys[index] ?? "");
}

export function percent(confidence) {
  return `${(confidence * 100).toFixed(confidence > 0.99 && confidence < 1 ? 1 : 0)} %`;
}

/** A label with its key; a label that is its own key is shown once. */
// Several labels are one text: after commas, or as JSON where one of them holds a comma.
function labelsOf(text) {
  if (!text.startsWith("[")) return text.split(", ");
  try {
    return JSON.parse(text);
  } catch {
    return text.split(", ");
  }
}

function named(label, key) {
  if (key === label.toLowerCase()) return [h("kbd", { class: "whole" }, label)];
  return [key ? h("kbd", {}, key.toUpperCase()) : null, h("span", { class: "name" }, label)];
}

function targetOf(view, alt) {
  if (view.image) {
    const viewer = new Viewer(view.image, view.alt || alt);
    const text = view.text ? h("p", { class: "caption" }, view.text) : null;
    return { viewer, element: h("div", { class: "target" }, viewer.element, text) };
  }
  if (view.json) {
    return { element: h("div", { class: "target" }, h("pre", { class: "reading json", tabindex: "0", role: "region", "aria-label": "The item, as JSON" }, view.text)) };
  }
  return { element: h("div", { class: "target" }, h("div", { class: "reading", tabindex: "0", role: "region", "aria-label": "The item's text" }, view.text || "")) };
}

class Classify {
  constructor(item, desk) {
    this.view = item.view;
    this.desk = desk;
    this.model = item.model.answer;
    this.target = targetOf(item.view, `The item ${item.name}`);
    this.stage = this.target.element;
    this.keys = hotkeys(item.view.labels);
    const given = (item.draft || {})[item.view.name];
    const before = given ? (item.view.multiple ? given.labels : [given.label]) : null;
    this.chosen = new Set(before || this.#modelLabels());
    this.buttons = item.view.labels.map((label, index) => this.#button(label, index, item.model));
    const many = item.view.labels.length > 14;
    this.filter = many
      ? h("input", { type: "search", placeholder: "Find a label ( / )", "aria-label": "Find a label", oninput: () => this.#narrow() })
      : null;
    const short = item.view.labels.every((label) => label.length < 4);
    this.list = h("div", { class: `labels${short ? " short" : ""}`, role: "group", "aria-label": "Labels" }, ...this.buttons);
    this.side = h("div", { class: "task" }, this.filter, this.list);
    this.#show();
  }

  get once() {
    return !this.view.multiple && this.desk.once();
  }

  answer() {
    const labels = this.view.labels.filter((label) => this.chosen.has(label));
    if (!labels.length) return null;
    return { [this.view.name]: this.view.multiple ? { labels } : { label: labels[0] } };
  }

  missing() {
    return "Choose a label first.";
  }

  key(event) {
    if (event.key === "/" && this.filter) {
      this.filter.focus();
      return true;
    }
    const index = this.keys.indexOf(event.key.toLowerCase());
    if (index >= 0) {
      this.#choose(this.view.labels[index]);
      return true;
    }
    return Boolean(this.target.viewer?.key(event));
  }

  close() {
    this.target.viewer?.close();
  }

  #modelLabels() {
    if (!this.model) return [];
    const parts = this.view.multiple ? labelsOf(this.model) : [this.model];
    return parts.filter((label) => this.view.labels.includes(label));
  }

  #button(label, index, model) {
    const models = this.#modelLabels().includes(label);
    const certain = models && model.confidence !== null ? percent(model.confidence) : "";
    return h(
      "button",
      { type: "button", class: `label${models ? " models" : ""}`, "data-label": label, onclick: () => this.#choose(label) },
      ...named(label, this.keys[index]),
      models ? h("span", { class: "hint" }, `model${label.length < 4 ? "" : ` ${certain}`}`) : null,
    );
  }

  #choose(label) {
    if (!this.view.multiple) this.chosen = new Set([label]);
    else if (!this.chosen.delete(label)) {
      const excluded = label === this.view.exclusion ? [...this.chosen] : [this.view.exclusion];
      for (const each of excluded) this.chosen.delete(each);
      this.chosen.add(label);
    }
    this.#show();
    if (this.once) this.desk.submit();
    else this.desk.changed();
  }

  #show() {
    for (const button of this.buttons) {
      button.setAttribute("aria-pressed", this.chosen.has(button.dataset.label));
    }
  }

  #narrow() {
    const wanted = this.filter.value.toLowerCase();
    for (const button of this.buttons) {
      button.hidden = !button.dataset.label.toLowerCase().includes(wanted);
    }
  }
}

class Moderate {
  constructor(item, desk) {
    this.view = item.view;
    this.desk = desk;
    this.target = targetOf(item.view, "The image to be judged");
    this.stage = this.target.element;
    this.keys = hotkeys(item.view.labels.map((_, index) => `${index}.`));
    const draft = (item.draft || {})[item.view.name];
    const names = draft ? draft.moderationLabels.map((each) => each.name) : item.view.labels.map((each) => each.name);
    this.boxes = item.view.labels.map((label, index) => {
      const box = h("input", { type: "checkbox", checked: names.includes(label.name), onchange: () => desk.changed() });
      const certain = label.confidence === null ? "" : percent(label.confidence / 100);
      return [box, h("label", { class: "tick" }, box, h("kbd", {}, this.keys[index].toUpperCase()), h("span", { class: "name" }, label.parent ? `${label.parent} / ${label.name}` : label.name), h("span", { class: "hint" }, certain))];
    });
    this.side = h("fieldset", { class: "task" }, h("legend", {}, "Keep what is true of the image"), ...this.boxes.map((pair) => pair[1]));
  }

  answer() {
    const moderationLabels = this.view.labels
      .filter((_, index) => this.boxes[index][0].checked)
      .map((label) => ({ name: label.name, parentName: label.parent }));
    return { [this.view.name]: { moderationLabels } };
  }

  key(event) {
    const index = this.keys.indexOf(event.key.toLowerCase());
    if (index >= 0) this.boxes[index][0].click();
    return index >= 0 || Boolean(this.target.viewer?.key(event));
  }

  close() {
    this.target.viewer?.close();
  }
}

class Form {
  constructor(item, desk) {
    this.view = item.view;
    this.desk = desk;
    const boxes = item.view.fields.flatMap((field) => [
      ...(field.key_box ? [{ box: field.key_box, id: field.id, kind: "key" }] : []),
      ...(field.value_box ? [{ box: field.value_box, id: field.id, kind: "value" }] : []),
    ]);
    this.viewer = new Viewer(item.view.image, "The page", boxes);
    this.viewer.onbox((id) => this.rows.get(id)?.input.focus());
    this.stage = h("div", { class: "target" }, this.viewer.element);
    this.drafted = new Map(
      ((item.draft || {})[item.view.name]?.blocks || []).map((block) => [block.id, block]),
    );
    this.added = 0;
    this.fields = [...item.view.fields, ...(item.view.missing || []).map((key) => this.#blank(key, true))];
    const more = [...this.drafted.keys()].filter((id) => /^added-\d+$/.test(id) && !this.fields.some((field) => field.id === id));
    for (const _ of more) this.fields.push(this.#blank("", false));
    this.rows = new Map(this.fields.map((field) => [field.id, this.#row(field)]));
    this.list = h("div", { class: "fields" }, ...[...this.rows.values()].map((row) => row.element));
    const add = h("button", { type: "button", class: "quiet", onclick: () => this.#add() }, "Add a field");
    this.side = h("div", { class: "task fields" }, this.list, add);
  }

  answer() {
    const blocks = this.fields.flatMap((field) => {
      const row = this.rows.get(field.id);
      const block = { blockType: "KEY_VALUE_SET", confidence: field.confidence ?? 100 };
      const key = { ...block, entityTypes: ["KEY"], id: field.id, text: row.key?.value ?? field.key };
      const box = (sides) => (sides ? { geometry: { boundingBox: sides } } : {});
      const id = field.value_id || `${field.id}-value`;
      const value = { ...block, entityTypes: ["VALUE"], id, text: row.absent.checked ? "" : row.input.value };
      return [
        { ...key, ...box(field.key_box), relationships: [{ type: "VALUE", ids: [id] }] },
        { ...value, ...box(field.value_box), ...(row.absent.checked ? { absent: true } : {}) },
      ];
    });
    return { [this.view.name]: { blocks } };
  }

  key(event) {
    return this.viewer.key(event);
  }

  /** The first field is where the work is: the least certain one. */
  focus() {
    this.rows.values().next().value?.input.focus();
  }

  close() {
    this.viewer.close();
  }

  /** A field that was not read: one that conditions miss, or one that the reviewer found. */
  #blank(key, wanted) {
    this.added += 1;
    return { id: `added-${this.added}`, value_id: null, key, value: "", confidence: null, key_box: null, value_box: null, wanted, own: !wanted };
  }

  #add() {
    const field = this.#blank("", false);
    const row = this.#row(field);
    this.fields.push(field);
    this.rows.set(field.id, row);
    this.list.append(row.element);
    row.key.focus();
  }

  #row(field) {
    const key = this.drafted.get(field.id);
    const value = this.drafted.get(field.value_id || `${field.id}-value`);
    const input = h("input", {
      id: `field-${field.id}`, value: value ? value.text : field.value, autocomplete: "off", spellcheck: "false",
      oninput: () => this.desk.changed(),
      onfocus: () => this.viewer.mark(field.id),
      onkeydown: (event) => this.#next(event, field.id),
    });
    const absent = h("input", {
      type: "checkbox", checked: Boolean(value?.absent),
      onchange: () => { input.disabled = absent.checked; this.desk.changed(); },
    });
    input.disabled = absent.checked;
    const fixed = field.wanted || (this.view.keys_fixed && !field.own);
    const named = fixed ? null : h("input", {
      class: "key", value: key ? key.text : field.key, "aria-label": `Name of the field ${field.key || "added"}`, autocomplete: "off",
      oninput: () => this.desk.changed(), onfocus: () => this.viewer.mark(field.id),
    });
    const certain = field.confidence === null ? null : field.confidence / 100;
    const element = h(
      "div",
      { class: "field" },
      h(
        "div",
        { class: "field-head" },
        h("label", { for: `field-${field.id}` }, named ? "Value of" : field.key || "(no name)"),
        named,
        field.wanted ? h("span", { class: "hint low" }, "not found") : null,
        certain === null ? null : h("span", { class: `hint${certain < 0.8 ? " low" : ""}` }, percent(certain)),
      ),
      input,
      h("label", { class: "absent" }, absent, " not on the page"),
    );
    return { element, input, absent, key: named };
  }

  #next(event, id) {
    if (event.key !== "Enter" || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    if (event.repeat) return;
    const ids = [...this.rows.keys()];
    const after = ids[ids.indexOf(id) + 1];
    if (after === undefined) this.desk.submit();
    else this.rows.get(after).input.select();
  }
}

/** A template of its own: it runs in a frame that has no session, and says its answer by message. */
class Frame {
  constructor(item, desk) {
    this.desk = desk;
    this.draft = item.draft;
    this.last = item.draft;
    this.frame = h("iframe", { src: item.view.src, sandbox: "allow-scripts", title: "The task", class: "template", referrerpolicy: "no-referrer" });
    this.stage = h("div", { class: "target" }, this.frame);
    this.side = null;
    this.listener = (event) => this.#hear(event);
    addEventListener("message", this.listener);
  }

  answer() {
    return this.last;
  }

  missing() {
    return "Fill in the task and press its Submit button.";
  }

  /** Ask the template to check itself and hand in; its answer comes back as a message. */
  ask() {
    this.frame.contentWindow.postMessage({ type: "submit" }, "*");
  }

  key() {
    return false;
  }

  focus() {
    this.frame.focus();
  }

  close() {
    removeEventListener("message", this.listener);
  }

  #hear(event) {
    // Its origin is opaque; who sent it is what counts.
    if (event.source !== this.frame.contentWindow || typeof event.data !== "object" || !event.data) return;
    const { type, answer, key, height } = event.data;
    if (type === "ready") {
      this.frame.contentWindow.postMessage({ type: "restore", draft: this.draft }, "*");
    } else if (type === "height" && Number.isFinite(height)) {
      this.frame.style.height = `${Math.min(Math.max(height, 200), 20000)}px`;
    } else if (type === "change" && isPlain(answer)) {
      this.last = answer;
      this.desk.changed();
    } else if (type === "submit" && isPlain(answer)) {
      this.last = answer;
      this.desk.submit(true);
    } else if (type === "key" && key === "?") {
      // A script of the template can say that a key was pressed: it must undo and skip nothing.
      this.desk.key(key);
    }
  }
}

function isPlain(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

class Broken {
  constructor(item) {
    this.stage = h("div", { class: "target" }, h("p", { class: "problem", role: "alert" }, `This item cannot be shown: ${item.view.problem}. Skip it, and tell your lead.`));
    this.side = null;
  }

  answer() {
    return null;
  }

  missing() {
    return "This item cannot be answered: skip it.";
  }

  key() {
    return false;
  }

  close() {}
}

/** What stands beside every task: the question, why it is here, how to do it, the raw input. */
export function about(item) {
  const view = item.view;
  const parts = [];
  if (item.why.length) {
    parts.push(h("details", { class: "about", open: innerWidth > 700 }, h("summary", {}, "Why this is here"), h("ul", {}, ...item.why.map((why) => h("li", {}, why)))));
  }
  for (const help of view.instructions || []) {
    parts.push(h("details", { class: "about" }, h("summary", {}, help.header || "Instructions"), h("p", { class: "help" }, help.text)));
  }
  parts.push(h("details", { class: "about" }, h("summary", {}, "The item's data"), h("pre", { tabindex: "0" }, item.data)));
  return parts;
}

export { fill };
