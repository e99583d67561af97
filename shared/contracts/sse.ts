/** Server-sent events as OpenAI's clients read them (WHATWG HTML, "Server-sent events"): formatting only. */

/** The event that ends every stream. */
export const sseDone = "data: [DONE]\n\n";

/** One event, with an id and a name where it has one. Each line of `data` gets its own field, so no line break can end the event early. */
export function sseEvent(data: string, id: string | null = null, name: string | null = null): string {
  const [idLine, nameLine] = [id === null ? "" : `id: ${id}\n`, name === null ? "" : `event: ${name}\n`];
  return `${idLine}${nameLine}${fields("data: ", data)}\n`;
}

/** A comment: clients ignore it, but writing it shows whether they are still there. */
export function sseComment(text: string): string {
  return `${fields(": ", text)}\n`;
}

function fields(prefix: string, text: string): string {
  return text
    .split(/\r\n|\r|\n/)
    .map((line) => `${prefix}${line}\n`)
    .join("");
}
