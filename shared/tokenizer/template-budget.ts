/** What one rendering of a template has used, and the sizes of its values. Knows values, not syntax. */
import type { TemplateValue } from "./jinja.ts";
import { TemplateLimitError, templateLimits } from "./template-limits.ts";

/** A list item or an object's entry takes about the memory of so many characters. */
export const itemCharacters = 32;
/** Reading or copying a list takes about the time and memory of so many characters an item. */
export const itemReadCharacters = 8;
/** JSON may spell a character in six, `\u001f`. */
const jsonGrowth = 6;
/** Comparisons of a substring search in the time of reading one character. */
const searchComparisons = 64;

interface Size {
  /** Characters of the value written out, about; `itemCharacters` for each item. */
  characters: number;
  /** Lists and objects inside each other. */
  nesting: number;
}
const scalarSize: Size = { characters: 1, nesting: 0 };

export class TemplateBudget {
  readonly #characterLimit: number;
  #steps = 0;
  #characters = 0;
  #depth = 0;
  /** Of lists and objects, which never change. */
  readonly #sizes = new WeakMap<object, Size>();

  /** @param conversationCharacters what the caller sent */
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

  /** Charges a value that was read or made; `isOutput`: it becomes text. Throws where it alone is too large. */
  charge(value: TemplateValue | undefined, isOutput: boolean): void {
    // What the filters `first` and `last` make of an empty list.
    if (value === undefined) return;
    if (value.type === "StringValue") {
      const { length } = value.value as string;
      requireAtMost("characters of one value", length, templateLimits.valueCharacters);
      this.spendCharacters(length);
    } else if (isContainer(value)) {
      const { characters } = this.#sizeOf(value);
      this.spendCharacters(isOutput ? jsonGrowth * characters : itemReadCharacters * itemsOf(value));
    } else if (value.type === "FunctionValue" && isOutput) {
      throw new Error("a function is no text");
    }
  }

  /** Characters of a value written out. Throws where they are too many. */
  charactersOf(value: TemplateValue): number {
    if (value.type === "StringValue") return (value.value as string).length;
    return isContainer(value) ? this.#sizeOf(value).characters : scalarSize.characters;
  }

  /** Charges a search for a substring; its worst case is a product. */
  spendSearch(textCharacters: number, patternCharacters: number): void {
    this.spendCharacters((textCharacters * patternCharacters) / searchComparisons);
  }

  #sizeOf(value: TemplateValue): Size {
    const known = this.#sizes.get(value);
    if (known) return known;
    const size = { characters: 0, nesting: 1 };
    requireAtMost("list items", itemsOf(value), templateLimits.listItems);
    for (const [key, item] of entriesOf(value)) {
      // A namespace is the one value that changes: inside another it would change that one's size, or hold itself.
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

/** Throws a TemplateLimitError where `value` exceeds `limit`. */
export function requireAtMost(what: string, value: number, limit: number): void {
  // Not `value > limit`, which NaN passes.
  if (!(value <= limit))
    throw new TemplateLimitError(`the chat template makes ${value} ${what}, the maximum is ${limit}`);
}

export function isContainer(value: TemplateValue): boolean {
  return value.value instanceof Map || Array.isArray(value.value);
}

/** Items of a list, entries of an object; 0 of anything else. */
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
