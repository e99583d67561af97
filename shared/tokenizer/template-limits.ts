/** The bounds on a chat template: what its source may hold, and what one rendering may take. */

export const templateLimits = {
  /** Characters of the source. Published templates have 100 to 20,000. */
  sourceCharacters: 65_536,
  /** Whitespace characters in a row in the source. The lexer's time is quadratic in them. */
  whitespaceRun: 1024,
  /**
   * Syntax nodes evaluated, loop iterations included. The heaviest of the published templates in the tests takes
   * 17,000 on a conversation of 256 messages; this many take a few tenths of a second.
   */
  steps: 131_072,
  /** Nodes evaluated inside each other. Published templates nest about 30 deep; the stack holds some thousands. */
  depth: 256,
  /** Characters of one string, or of one list or object written out: twice the largest request body. */
  valueCharacters: 2 ** 21,
  /**
   * Characters of all strings that are read or made, beside `characterReads` times those of the conversation. Bounds
   * memory and the time of string operations, which steps do not count.
   */
  characters: 2 ** 22,
  /** How often a template may read or write each character of a conversation. Published ones do so 5 to 15 times. */
  characterReads: 32,
  /** Items of one list. */
  listItems: 65_536,
  /** Lists and objects inside each other. */
  nesting: 16,
  /** Characters of an argument that an operation repeats or searches by: separators, attributes, date formats, patterns. */
  argumentCharacters: 256,
  /** Spaces for each level of `tojson`. */
  jsonIndent: 8,
} as const;

/** A rendering that would exceed a limit. Its message names the limit. */
export class TemplateLimitError extends Error {}

/** What a template says with `raise_exception`. */
export class TemplateRefusal extends Error {}
