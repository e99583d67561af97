/** Counts the steps and characters that one rendering uses, and computes sizes of values. Independent of the syntax. */
import type { TemplateValue } from "./jinja.ts";
import { TemplateLimitError, templateLimits } from "./template-limits.ts";

/** Cost model: the memory of a list item or object entry, in characters. */
export const itemCharacters = 32;
/** Cost model: reading or copying one list item, in characters. */
export const itemReadCharacters = 8;
/** JSON may escape one character as six, `\u001f`. */
const jsonGrowth = 6;
/** Cost model: 64 comparisons of a substring search cost one character. */
const searchComparisons = 64;

interface Size {
  /** Approximate characters of the value as text, with `itemCharacters` per item. */
  characters: number;
  /** Depth of nested lists and objects. */
  nesting: number;
}
const scalarSize: Size = { characters: 1, nesting: 0 };

export class TemplateBudget {
  readonly #characterLimit: number;
  #steps = 0;
  #characters = 0;
  #depth = 0;
  /** Sizes of lists and objects, which are immutable. */
  readonly #sizes = new WeakMap<object, Size>();

  /** @param conversationCharacters characters of the conversation to render */
  constructor(conversationCharacters: number) {
    const { characters, characterReads } = templateLimits;
    this.#characterLimit = characters + characterReads * conversationCharacters;
  }

  get spent(): { steps: number; characters: number } {
    return { steps: this.#steps, characters: this.#characters };
  }

  spendSteps(steps: number): void {
    this.#steps += steps;
    if (this.#steps > templateLimits.steps) refuse("steps", templateLimits.steps);
  }

  spendCharacters(characters: number): void {
    this.#characters += characters;
    if (this.#characters > this.#characterLimit) refuse("characters read and written", this.#characterLimit);
  }

  enter(): void {
    if (++this.#depth > templateLimits.depth) refuse("nodes inside each other", templateLimits.depth);
  }

  leave(): void {
    this.#depth--;
  }

  /** Charges a value that was read or created. `isOutput`: it is written out. Throws if it exceeds the limit of one value. */
  charge(value: TemplateValue | undefined, isOutput: boolean): void {
    // The filters `first` and `last` return undefined for an empty list.
    if (value === undefined) return;
    if (value.type === "StringValue") {
      const { length } = value.value as string;
      requireAtMost("characters of one value", length, templateLimits.valueCharacters);
      this.spendCharacters(length);
    } else if (isContainer(value)) {
      const { characters } = this.#sizeOf(value);
      this.spendCharacters(isOutput ? jsonGrowth * characters : itemReadCharacters * itemsOf(value));
    } else if (value.type === "FunctionValue" && isOutput) {
      throw new Error("a function cannot be written out");
    }
  }

  /** Characters of a value as text. Throws if they exceed the limit of one value. */
  charactersOf(value: TemplateValue): number {
    if (value.type === "StringValue") return (value.value as string).length;
    return isContainer(value) ? this.#sizeOf(value).characters : scalarSize.characters;
  }

  /** Charges the worst case of a substring search: every pattern character at every position. */
  spendSearch(textCharacters: number, patternCharacters: number): void {
    this.spendCharacters((textCharacters * patternCharacters) / searchComparisons);
  }

  #sizeOf(value: TemplateValue): Size {
    const known = this.#sizes.get(value);
    if (known) return known;
    const size = { characters: 0, nesting: 1 };
    requireAtMost("list items", itemsOf(value), templateLimits.listItems);
    for (const [key, item] of entriesOf(value)) {
      // Namespaces are mutable: one inside another value would change that value's size, or contain itself.
      if (item.type === "NamespaceValue") throw new Error("a namespace inside another value is not supported");
      const { characters, nesting } = isContainer(item)
        ? this.#sizeOf(item)
        : { characters: this.charactersOf(item), nesting: 0 };
      size.characters += itemCharacters + key.length + characters;
      size.nesting = Math.max(size.nesting, nesting + 1);
    }
    requireAtMost("characters of one value", size.characters, templateLimits.valueCharacters);
    requireAtMost("values inside each other", size.nesting, templateLimits.nesting);
    if (value.type !== "NamespaceValue") this.#sizes.set(value, size);
    return size;
  }
}

/** Throws a TemplateLimitError when `value` exceeds `limit`. */
export function requireAtMost(what: string, value: number, limit: number): void {
  // Not `value > limit`, which is false for NaN.
  if (!(value <= limit))
    throw new TemplateLimitError(`the chat template makes ${value} ${what}, the maximum is ${limit}`);
}

function isContainer(value: TemplateValue): boolean {
  return value.value instanceof Map || Array.isArray(value.value);
}

/** Number of list items or object entries; 0 for other values. */
export function itemsOf(value: TemplateValue): number {
  if (Array.isArray(value.value)) return value.value.length;
  return value.value instanceof Map ? value.value.size : 0;
}

function* entriesOf({ value }: TemplateValue): Iterable<[string, TemplateValue]> {
  if (value instanceof Map) yield* value;
  else for (const item of value as TemplateValue[]) yield ["", item];
}

function refuse(what: string, limit: number): never {
  throw new TemplateLimitError(`the chat template takes more than ${limit} ${what}`);
}
