// crowd-form: gathers the answer, checks it, and tells the page around the frame.
"use strict";

const CROWD_CHANGE_MS = 250;

class CrowdForm extends HTMLElement {
  connectedCallback() {
    if (this.problem) return;
    this.problem = Crowd.h("p", { class: "problem", role: "alert", hidden: true });
    this.append(this.problem);
    if (!this.querySelector('crowd-button[form-action="submit"], button[type="submit"], input[type="submit"]')) {
      this.append(Crowd.h("button", { type: "button", class: "primary", onclick: () => this.submit() }, "Submit"));
    }
    for (const name of ["crowd-change", "input", "change"]) this.addEventListener(name, () => this.later());
    this.addEventListener("click", (event) => {
      if (event.target.closest('button[type="submit"], input[type="submit"]') && !event.target.closest("crowd-button")) {
        event.preventDefault();
        this.submit();
      }
    });
    addEventListener("message", (event) => this.hear(event));
    addEventListener("keydown", (event) => this.keys(event));
    new ResizeObserver(() => this.tell({ type: "height", height: document.documentElement.offsetHeight + 4 })).observe(document.body);
    Crowd.ready.then(() => this.tell({ type: "ready" }));
  }

  get fields() {
    return [...this.querySelectorAll("*")].filter((element) => element instanceof CrowdField);
  }

  /** The page's own inputs count too, as long as no crowd element made them. */
  get plain() {
    return [...this.querySelectorAll("input[name], textarea[name], select[name]")].filter(
      (element) => ![...this.fields].some((field) => field.contains(element)) && element.type !== "submit",
    );
  }

  get answer() {
    const answer = {};
    const add = (name, value) => {
      const both = answer[name] && typeof value === "object" && typeof answer[name] === "object";
      // Check boxes and radio buttons may share a name: each adds its state.
      answer[name] = both ? { ...answer[name], ...value } : value;
    };
    for (const field of this.fields) {
      const value = field.given;
      if (value !== undefined) add(field.name, value);
    }
    for (const input of this.plain) {
      if (input.type === "checkbox") add(input.name, { [input.value || "on"]: input.checked });
      else if (input.multiple && input.options) {
        add(input.name, Object.fromEntries([...input.options].map((option) => [option.value, option.selected])));
      } else if (input.type !== "radio" || input.checked) add(input.name, input.value);
    }
    return answer;
  }

  later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.tell({ type: "change", answer: this.answer }), CROWD_CHANGE_MS);
  }

  /** Hand in, unless something is missing or the template's own handler objects. */
  submit() {
    for (const field of this.fields) {
      const missing = field.missing();
      if (missing) {
        field.closest("crowd-tabs")?.reveal(field);
        this.complain(missing);
        return;
      }
    }
    const wrong = this.plain.find((input) => !input.checkValidity());
    if (wrong) {
      this.complain(`${wrong.name}: ${wrong.validationMessage}`);
      return;
    }
    const event = new Event("submit", { cancelable: true, bubbles: true });
    if (!this.dispatchEvent(event)) return;
    this.problem.hidden = true;
    clearTimeout(this.timer);
    this.tell({ type: "submit", answer: this.answer });
  }

  reset() {
    this.restore(this.first);
  }

  complain(text) {
    this.problem.textContent = text;
    this.problem.hidden = false;
    this.problem.scrollIntoView({ block: "nearest" });
  }

  restore(answer) {
    for (const field of this.fields) field.restore(answer?.[field.name]);
    for (const input of this.plain) {
      const value = answer?.[input.name];
      if (input.type === "checkbox") input.checked = Boolean(value?.[input.value || "on"]);
      else if (input.multiple && input.options) {
        for (const option of input.options) option.selected = Boolean(value?.[option.value]);
      } else if (input.type === "radio") input.checked = value === input.value;
      else if (typeof value === "string") input.value = value;
    }
  }

  hear(event) {
    if (event.source !== Crowd.page || typeof event.data !== "object" || !event.data) return;
    if (event.data.type === "submit") this.submit();
    else if (event.data.type === "restore") {
      this.first ??= this.answer;
      if (event.data.draft) this.restore(event.data.draft);
    }
  }

  keys(event) {
    // What is held is one press; text that repeats is the field's own.
    if (event.repeat) return;
    const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) && !/^(checkbox|radio)$/.test(event.target.type);
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this.submit();
    } else if (!typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      // A number belongs to the field it is pressed in, or to the only one in sight that has keys.
      const keyed = this.fields.filter((field) => field.key && field.getClientRects().length);
      const meant = keyed.find((field) => field.contains(event.target)) ?? (keyed.length === 1 ? keyed[0] : null);
      if (meant?.key(event.key)) event.preventDefault();
      else if (event.key === "?") this.tell({ type: "key", key: event.key });
    }
  }

  tell(message) {
    // Whoever embeds the frame is the portal, by the frame's own policy; no origin can be named.
    Crowd.page.postMessage(message, "*");
  }
}

for (const [name, element] of Object.entries({
  "crowd-input": CrowdInput,
  "crowd-text-area": CrowdTextArea,
  "crowd-checkbox": CrowdCheckbox,
  "crowd-radio-group": CrowdRadioGroup,
  "crowd-radio-button": CrowdRadioButton,
  "crowd-button": CrowdButton,
  "crowd-image": CrowdImage,
  "crowd-bounding-box": CrowdBoundingBox,
  "crowd-tabs": CrowdTabs,
  "crowd-tab": CrowdTab,
  "crowd-instructions": CrowdInstructions,
  "crowd-classifier": class extends CrowdChoice {},
  "crowd-classifier-multi-select": class extends CrowdChoice {},
  "crowd-image-classifier": class extends CrowdChoice {},
  "crowd-image-classifier-multi-select": class extends CrowdChoice {},
  "crowd-textract-analyze-document": class extends CrowdUnsupportedHere {},
  "crowd-rekognition-detect-moderation-labels": class extends CrowdUnsupportedHere {},
  "crowd-form": CrowdForm,
})) {
  customElements.define(name, element);
}

// As AWS's script says it: templates wait for it before they touch an element.
Crowd.ready.then(() => document.dispatchEvent(new Event("all-crowd-elements-ready", { bubbles: true })));
