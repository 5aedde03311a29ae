// A page that keeps itself up to date: its live parts are fetched anew, focus stays where it is.

const EVERY_MS = 3000;

async function refresh() {
  let answer;
  try {
    answer = await fetch(location.href, { credentials: "same-origin" });
  } catch {
    return; // The server is away for a moment: what is shown stays.
  }
  if (answer.redirected) location.assign(answer.url);
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of document.querySelectorAll("[data-live]")) {
    const now = fresh.getElementById(part.id);
    if (now === null || now.innerHTML === part.innerHTML) continue;
    const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
    part.replaceChildren(...document.importNode(now, true).childNodes);
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  }
}

async function follow() {
  if (document.visibilityState === "visible") await refresh();
  setTimeout(follow, EVERY_MS);
}

setTimeout(follow, EVERY_MS);
