/** Parses a caller's JSON. A scan first refuses texts that are expensive to parse. */
import { invalidRequest, ServiceError } from "../errors.ts";
import { limits } from "./limits.ts";

/** Throws invalid_request if the text is not JSON or exceeds a limit. */
export function parseCallerJson(text: string, maxValues?: number): unknown {
  checkCallerJson(text, maxValues);
  try {
    return JSON.parse(text);
  } catch (error) {
    // Only the caller may read V8's message, because the message can quote the body.
    throw new ServiceError("invalid_request", `The body is not JSON: ${(error as Error).message.slice(0, 200)}`);
  }
}

/** Checks the limits without parsing. The text may hold several JSON texts, as JSONL does. Throws invalid_request. */
export function checkCallerJson(text: string, maxValues = Number.POSITIVE_INFINITY): void {
  const { levels, digitStrings, values } = scan(text);
  if (levels > limits.bodyNesting) {
    throw invalidRequest(`the body is nested ${levels} levels deep, the maximum is ${limits.bodyNesting}`);
  }
  if (digitStrings > limits.digitStrings) {
    throw invalidRequest(
      `the body has ${digitStrings} strings of 1 to 10 digits, the maximum is ${limits.digitStrings}; send numbers as numbers`,
    );
  }
  if (values > maxValues) {
    throw invalidRequest(`the body has ${values} values in lists and objects, the maximum is ${maxValues}`);
  }
}

const [quote, backslash, listStart, listEnd, objectStart, objectEnd, comma, zero, nine] = [...'"\\[]{},09'].map(
  (character) => character.charCodeAt(0),
);

/** A string of 1 to 10 digits, escaped or not. V8 hashes such strings without a seed, so a caller can choose many that collide. */
const digitString = /"(?:\d|\\u003\d){1,10}"/y;

function scan(json: string): { levels: number; digitStrings: number; values: number } {
  let level = 0;
  let values = 0;
  let levels = 0;
  let digitStrings = 0;
  for (let i = 0; i < json.length; i++) {
    const character = json.charCodeAt(i);
    if (character === quote) {
      if (mayBeDigits(json.charCodeAt(i + 1))) {
        digitString.lastIndex = i;
        if (digitString.test(json)) digitStrings++;
      }
      i = endOfString(json, i);
    } else if (character === listStart || character === objectStart) {
      values++;
      levels = Math.max(levels, ++level);
    } else if (character === comma) values++;
    else if (character === listEnd || character === objectEnd) level--;
  }
  return { levels, digitStrings, values };
}

function mayBeDigits(first: number): boolean {
  return (first >= zero && first <= nine) || first === backslash;
}

function endOfString(json: string, start: number): number {
  for (let end = json.indexOf('"', start + 1); end >= 0; end = json.indexOf('"', end + 1)) {
    let backslashes = 0;
    while (json.charCodeAt(end - 1 - backslashes) === backslash) backslashes++;
    if (backslashes % 2 === 0) return end;
  }
  return json.length;
}
