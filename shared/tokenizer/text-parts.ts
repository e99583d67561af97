/** Cuts long texts into parts, so that other work of the process can run between the encodings of parts. */

/** A part takes some milliseconds to encode. */
export const partCharacters = 16_384;

/** Each part ends after a line or, failing that, before a space, so that few tokens are cut. */
export function* partsOf(text: string): Generator<string> {
  for (let start = 0; start < text.length; ) {
    const part = text.slice(start, start + partCharacters);
    const end = start + part.length < text.length ? cutOf(part) : part.length;
    yield part.slice(0, end);
    start += end;
  }
}

function cutOf(part: string): number {
  const line = part.lastIndexOf("\n") + 1;
  if (line > 0) return line;
  const space = part.lastIndexOf(" ");
  if (space > 0) return space;
  const isInPair = (part.charCodeAt(part.length - 1) & 0xfc00) === 0xd800;
  return isInPair ? part.length - 1 : part.length;
}
