/** The bounds on a chat template: what its source may hold, and what one rendering may take. */

export const templateLimits = {
  /** Characters of the source. Published templates have 100 to 20,000. */
  sourceCharacters: 65_536,
  /** Special tokens that a template may write. Each has a mark of its own, a low surrogate; one of the 1,024 begins every mark. */
  markedTokens: 1023,
  /** Whitespace characters in a row in the source. The lexer's time is quadratic in them. */
  whitespaceRun: 1024,
  /**
   * Turns of loops and nodes of the syntax tree that are evaluated. The heaviest of the published templates in the tests takes
   * 17,000 on a conversation of 256 messages; this many take a few tenths of a second.
   */
  steps: 131_072,
  /** Characters of one string, or of a list or object with all that is in it: twice the largest request body. */
  valueCharacters: 2 ** 21,
  /** Characters that an item of a list or object counts as, beside its own. */
  itemCharacters: 32,
  /** Characters of all strings that are read or made, beside `characterReads` times those of the conversation. */
  characters: 2 ** 22,
  /** How often a template may read or write each character of a conversation. Published ones do so 5 to 15 times. */
  characterReads: 32,
  /** Characters of a text that a filter, a method or `in` searches by or repeats; lists of such may have four times as many. */
  argumentCharacters: 256,
  /** The largest number that a filter or a method takes, such as spaces of an indent. */
  argumentNumber: 64,
} as const;

/** A rendering that would exceed a limit. Its message names the limit. */
export class TemplateLimitError extends Error {}

/** What a template says with `raise_exception`. */
export class TemplateRefusal extends Error {}

/** Throws a TemplateLimitError when `value` exceeds `limit`. */
export function requireAtMost(what: string, value: number, limit: number): void {
  // Not `value > limit`, which is false for NaN.
  if (!(value <= limit))
    throw new TemplateLimitError(`the chat template makes ${value} ${what}, the maximum is ${limit}`);
}
