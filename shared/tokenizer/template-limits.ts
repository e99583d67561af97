export const templateLimits = {
  /** Published templates have 100 to 20,000 characters. */
  sourceCharacters: 65_536,
  /** Special tokens that a template may write. Each needs a low surrogate of its own, and one of the 1,024 begins every mark. */
  markedTokens: 1023,
  /** Whitespace characters in a row in the source. The lexer takes quadratic time for a run. */
  whitespaceRun: 1024,
  /** Evaluated nodes plus loop iterations. Published templates take up to 17,000 for 256 messages. */
  steps: 131_072,
  /** Characters of one value with its contents: twice the largest request body. */
  valueCharacters: 2 ** 21,
  /** Charge for each item of a list or object, in addition to the item's characters. */
  itemCharacters: 32,
  /** Characters of all strings read or made, in addition to `characterReads` times the conversation's characters. */
  characters: 2 ** 22,
  /** How often each character of a conversation may be read or written. Published templates need 5 to 15 times. */
  characterReads: 32,
  /** Characters of an argument of a filter, a method or `in`. A list or object may have four times as many. */
  argumentCharacters: 256,
  /** The largest argument of a filter or method, such as the spaces of an indent. */
  argumentNumber: 64,
} as const;

export class TemplateLimitError extends Error {}

/** The template called `raise_exception`, to refuse a conversation. */
export class TemplateRefusal extends Error {}

export function requireAtMost(what: string, value: number, limit: number): void {
  // `value > limit` would be false for NaN.
  if (!(value <= limit))
    throw new TemplateLimitError(`the chat template makes ${value} ${what}, the maximum is ${limit}`);
}
