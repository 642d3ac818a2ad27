// Requests to the endpoint, with the token, which is asked for when it is missing or no longer accepted.

const KEY = "differnet-token"; // in the storage of this tab

/** Why there is no answer; `status` is that of HTTP, 0 where nothing came back. */
export class Problem extends Error {
  constructor(status, detail, retryAfter = null, requestId = null) {
    super(detail);
    Object.assign(this, { status, retryAfter, requestId });
  }
}

/** The JSON that a path answers. Throws a Problem, or AbortError. */
export async function ask(path, options = {}) {
  for (;;) {
    const token = sessionStorage.getItem(KEY);
    const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
    try {
      const answer = await fetch(path, { ...options, headers });
      if (answer.ok) return await answer.json();
      if (answer.status !== 401) throw await problemOf(answer);
    } catch (error) {
      if (error instanceof Problem || error.name === "AbortError") throw error;
      throw new Problem(0, "There is no connection to the endpoint, or it refused the file while it was being sent, as it does with very large ones.");
    }
    if (sessionStorage.getItem(KEY) === token) await anotherToken(token !== null);
  }
}

async function problemOf(answer) {
  const said = await answer.json().catch(() => ({})); // a server in between may answer in its own way
  const detail = typeof said.detail === "string" ? said.detail : `The server answered ${answer.status} without a reason.`;
  return new Problem(answer.status, sentence(detail), Number(answer.headers.get("Retry-After")) || null, answer.headers.get("X-Request-ID"));
}

const sentence = (text) => text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

let asked = null; // all requests that need a token wait for the same answer

function anotherToken(refused) {
  asked ??= fromDialog(refused).finally(() => (asked = null));
  return asked;
}

function fromDialog(refused) {
  const dialog = document.getElementById("token-dialog");
  const [form, input] = [dialog.querySelector("form"), document.getElementById("token")];
  document.getElementById("token-why").textContent = refused
    ? "This token is not accepted. Check it, or ask for a new one."
    : "This endpoint needs a token. It is kept until this tab is closed.";
  input.value = "";
  dialog.showModal();
  return new Promise((resolve, reject) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      const token = input.value.trim();
      sessionStorage.setItem(KEY, /^[\x21-\x7e]+$/.test(token) ? token : "-"); // what no header can carry is no token
      dialog.onclose = null;
      dialog.close();
      resolve();
    };
    document.getElementById("token-cancel").onclick = () => dialog.close();
    dialog.onclose = () => reject(new Problem(401, "The endpoint needs a token."));
  });
}
