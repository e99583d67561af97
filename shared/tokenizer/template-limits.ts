/** Limits of a chat template's source and of one rendering. */

export const templateLimits = {
  /** Published templates have 100 to 20,000 characters. */
  sourceCharacters: 65_536,
  /** Special tokens that a template may write. One of the 1,024 low surrogates begins every mark, and each token needs another. */
  markedTokens: 1023,
  /** Whitespace characters in a row in the source. The lexer's time is quadratic in their number. */
  whitespaceRun: 1024,
  /** Evaluated nodes plus loop iterations. Published templates take up to 17,000 for 256 messages; the maximum takes tenths of a second. */
  steps: 131_072,
  /** Characters of one string, or of a list or object with its contents: twice the largest request body. */
  valueCharacters: 2 ** 21,
  /** Characters that each item of a list or object counts in addition to its own. */
  itemCharacters: 32,
  /** Characters of all strings read or made, in addition to `characterReads` times the conversation's characters. */
  characters: 2 ** 22,
  /** How often each character of a conversation may be read or written. Published templates do so 5 to 15 times. */
  characterReads: 32,
  /** Characters of an argument of a filter, a method or `in`. A list or object may have four times as many. */
  argumentCharacters: 256,
  /** The largest argument of a filter or method, such as the spaces of an indent. */
  argumentNumber: 64,
} as const;

/** A rendering would exceed the limit that the message names. */
export class TemplateLimitError extends Error {}

/** The template called `raise_exception`, as templates do with conversations that they refuse. */
export class TemplateRefusal extends Error {}

export function requireAtMost(what: string, value: number, limit: number): void {
  // Not `value > limit`, which is false for NaN.
  if (!(value <= limit))
    throw new TemplateLimitError(`the chat template makes ${value} ${what}, the maximum is ${limit}`);
}
