import { describe, expect, test } from "vitest";
import { schemaForm } from "../../../shared/contracts/json-schema.ts";

const formOf = (schema: unknown) => {
  const form = schemaForm(schema);
  return typeof form === "string" ? JSON.parse(form).$defs.d0 : form;
};

describe("the form of a schema", () => {
  test("drops annotations, closes objects and knows every required property", () => {
    const schema = {
      ...{ $schema: "https://json-schema.org/draft/2020-12/schema", title: "t", type: "object" },
      properties: { a: { type: ["string", "null"], format: "email" }, b: false },
      required: ["a", "z"],
    };
    expect(formOf(schema)).toEqual({
      ...{ type: "object", required: ["a", "z"], additionalProperties: false },
      properties: { a: { anyOf: [{ type: "string" }, { type: "null" }] }, z: {} },
    });
  });

  test("takes the kinds that the keywords speak of, integers of bounded numbers, and values of the type", () => {
    expect(formOf({ minItems: 1 })).toEqual({ type: "array", items: {}, minItems: 1 });
    expect(formOf({ exclusiveMinimum: 1.5, maximum: 9 })).toEqual({ type: "integer", minimum: 2, maximum: 9 });
    expect(formOf({ type: "string", enum: [1, "a", "b"], const: "b" })).toEqual({ enum: ["b"] });
  });

  test("keeps definitions that are referred to, whatever their names", () => {
    const schema = { $defs: { "a/b%": { type: "null" }, unused: { not: {} } }, items: { $ref: "#/$defs/a~1b%25" } };
    expect(JSON.parse(schemaForm(schema) as string).$defs).toEqual({
      d0: { type: "array", items: { $ref: "#/$defs/d1" }, minItems: 0 },
      d1: { type: "null" },
    });
  });
});

const many = (count: number, one: unknown) =>
  Object.fromEntries(Array.from({ length: count }, (_, i) => [`p${i}`, one]));
const deep = (levels: number): object => (levels === 0 ? {} : { items: deep(levels - 1) });

test.each<[string, unknown, string, RegExp]>([
  [
    "a keyword that asserts more",
    { properties: { "a/b": { pattern: "x" } } },
    "/properties/a~1b/pattern",
    /not supported/,
  ],
  ["several schemas of allOf", { items: { allOf: [{}, {}] } }, "/items/allOf", /several/],
  ["an assertion beside a union", { anyOf: [{}], minimum: 1 }, "/minimum", /beside anyOf/],
  [
    "branches of oneOf that overlap",
    { oneOf: [{ type: "integer" }, { type: "number" }] },
    "/oneOf/1",
    /differ in type/,
  ],
  ["a reference elsewhere", { $ref: "https://example.com/s" }, "/$ref", /entry of the root/],
  ["a reference to nothing", { $ref: "#/$defs/a" }, "/$ref", /not there/],
  ["a loop", { $ref: "#/$defs/a", $defs: { a: { anyOf: [{ type: "null" }, { $ref: "#" }] } } }, "", /refers to itself/],
  ["false", { items: { properties: { a: false }, required: ["a"] } }, "/items/properties/a", /admits nothing/],
  ["a type that is none", { type: "text" }, "/type", /no type/],
  [
    "bounds that exclude each other",
    { type: "string", minLength: 3, maxLength: 2 },
    "/minLength",
    /above maxLength: 2/,
  ],
  ["bounds with no integer between", { minimum: 1.2, maximum: 1.8 }, "", /no integer/],
  ["a long string", { type: "string", maxLength: 33 }, "/maxLength", /maximum is 32/],
  ["too many schemas", { properties: many(512, {}) }, "/properties/p511", /maximum of 512/],
  ["too many values", { enum: Array.from({ length: 513 }, (_, i) => i) }, "/enum", /513, the maximum is 512/],
  ["depth", deep(17), "/items".repeat(17), /17 levels deep, the maximum is 16/],
  ["bytes", { description: "x".repeat(20_000) }, "", /20018 bytes, the maximum is 16384/],
])("%s is refused with its place", (_, schema, pointer, fault) => {
  expect(schemaForm(schema)).toEqual({ pointer, fault: expect.stringMatching(fault) });
});

test("branches of oneOf that differ in type or in a listed property are those of anyOf", () => {
  const of = (kind: string) => ({ type: "object", properties: { kind: { const: kind } }, required: ["kind"] });
  expect(formOf({ oneOf: [of("a"), of("b"), { type: "null" }] }).anyOf).toHaveLength(3);
});
