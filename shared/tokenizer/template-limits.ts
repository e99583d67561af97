/** Limits of a chat template's source and of one rendering. */

export const templateLimits = {
  /** Characters of the source. Published templates have 100 to 20,000. */
  sourceCharacters: 65_536,
  /** Special tokens that a template may write. There are 1,024 low surrogates: one begins every mark, and each token needs another. */
  markedTokens: 1023,
  /** Whitespace characters in a row in the source. The lexer's time is quadratic in them. */
  whitespaceRun: 1024,
  /** Evaluated nodes plus loop iterations. Published templates take up to 17,000 for 256 messages; the maximum takes tenths of a second. */
  steps: 131_072,
  /** Characters of one string, or of a list or object with its contents: twice the largest request body. */
  valueCharacters: 2 ** 21,
  /** Characters that an item of a list or object counts in addition to its text. */
  itemCharacters: 32,
  /** Characters of all strings read or made, in addition to `characterReads` times those of the conversation. */
  characters: 2 ** 22,
  /** How often a template may read or write each character of a conversation. Published templates do so 5 to 15 times. */
  characterReads: 32,
  /** Characters of an argument of a filter, a method or `in`. Lists may have four times as many. */
  argumentCharacters: 256,
  /** The largest number as an argument of a filter or method, such as the spaces of an indent. */
  argumentNumber: 64,
} as const;

/** A rendering that would exceed a limit. Its message names the limit. */
export class TemplateLimitError extends Error {}

/** Thrown when a template calls its function `raise_exception`, as templates do for conversations that they refuse. */
export class TemplateRefusal extends Error {}

/** Throws a TemplateLimitError if `value` exceeds `limit`. */
export function requireAtMost(what: string, value: number, limit: number): void {
  // Not `value > limit`, which is false for NaN.
  if (!(value <= limit))
    throw new TemplateLimitError(`the chat template makes ${value} ${what}, the maximum is ${limit}`);
}
