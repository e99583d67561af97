/** Formats server-sent events (WHATWG HTML, "Server-sent events"). */

export const sseDone = "data: [DONE]\n\n";

/** Formats an event. Each line of `data` becomes a field of its own, so that a line break cannot end the event. */
export function sseEvent(data: string, id: string | null = null, name: string | null = null): string {
  const [idLine, nameLine] = [id === null ? "" : `id: ${id}\n`, name === null ? "" : `event: ${name}\n`];
  return `${idLine}${nameLine}${fields("data: ", data)}\n`;
}

/** Formats a comment, which clients ignore. Writing a comment fails if the client has gone. */
export function sseComment(text: string): string {
  return `${fields(": ", text)}\n`;
}

function fields(prefix: string, text: string): string {
  return text
    .split(/\r\n|\r|\n/)
    .map((line) => `${prefix}${line}\n`)
    .join("");
}
