/**
 * Values near a body's size limit: long strings, long lists, deep nesting. A body holds a placeholder for such a value, because
 * JSON.stringify recurses. The placeholder is replaced in the JSON text.
 */
import fc from "fast-check";

/** JSON of about `size` characters. */
export const largeParts: Record<string, (size: number) => string> = {
  text: (size) => JSON.stringify("x".repeat(size)),
  words: (size) => JSON.stringify("word ".repeat(size / 5)),
  numbers: (size) => `[${"1,".repeat(size / 2)}1]`,
  strings: (size) => `[${'"a",'.repeat(size / 4)}"a"]`,
  objects: (size) => `[${"{},".repeat(size / 3)}{}]`,
  lists: (size) => "[".repeat(size / 2) + "]".repeat(size / 2),
  nested: (size) => `${'{"type":'.repeat(size / 9)}1${"}".repeat(size / 9)}`,
  keys: (size) => `{${Array.from({ length: size / 12 }, (_, i) => `"k${i}":1`).join(",")}}`,
};
/** The placeholder of a value of this kind and size. */
export const largeValue = fc
  .record({ part: fc.constantFrom(...Object.keys(largeParts)), size: fc.constantFrom(300, 5000, 50_000, 900_000) })
  .map(({ part, size }) => `@large:${part}:${size}`);
/** Replaces the placeholders in a body's JSON. */
export const withLargeParts = (json: string) =>
  json.replace(/"@large:(\w+):(\d+)"/g, (_, part: string, size: string) => largeParts[part](Number(size)));

/** Values of fields that take an object, with a large value inside. */
export const largeObject = fc.oneof(
  largeValue.map((value) => ({ adapter: value })),
  largeValue.map((value) => ({ adapter: "mine", compare: value })),
  largeValue.map((value) => ({ type: "function", function: { name: value } })),
  largeValue.map((value) => ({ type: "json_schema", json_schema: { name: "x", schema: value } })),
  largeValue.map((value) => [{ type: "function", function: { name: "x", parameters: value } }]),
  largeValue.map((value) => [{ role: "user", content: value }]),
  largeValue.map((value) => [{ role: value, content: "hi", name: value }]),
  largeValue.map((value) => ({ [`50${value}`]: 1 })),
);
