// The portal's calls: JSON both ways, with the session's token.

const token = document.querySelector("meta[name=csrf]").content;
export const flow = document.querySelector("meta[name=flow]").content;

/** A call that was answered with a problem; `status` 0 is a server that did not answer. */
export class Problem extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function post(call, body = {}, options = {}) {
  let answer;
  try {
    answer = await fetch(`/review/api/${flow}/${call}`, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-CSRF-Token": token },
      body: JSON.stringify(body),
      credentials: "same-origin",
      ...options,
    });
  } catch {
    throw new Problem(0, "The server does not answer. What you entered is kept: try again.");
  }
  let value = {};
  try {
    value = await answer.json();
  } catch {
    // The status says enough.
  }
  if (answer.status === 401) {
    location.assign(`/sign-in?next=${encodeURIComponent(location.pathname)}`);
  }
  if (!answer.ok) throw new Problem(answer.status, value.problem || `Error ${answer.status}.`);
  return value;
}
