import { expect, test } from "vitest";
import { schemaForm } from "../../../shared/contracts/json-schema.ts";

const formOf = (schema: unknown) => {
  const form = schemaForm(schema);
  return typeof form === "string" ? JSON.parse(form).$defs.d0 : form;
};

test("the form of a schema drops annotations, closes objects and knows every required property", () => {
  const schema = {
    ...{ $schema: "https://json-schema.org/draft/2020-12/schema", title: "t", type: "object" },
    properties: { a: { type: ["string", "null"], format: "email" }, b: false },
    required: ["a", "z"],
  };
  expect(formOf(schema)).toEqual({
    ...{ type: "object", required: ["a", "z"] },
    properties: { a: { anyOf: [{ type: "string" }, { type: "null" }] }, z: {} },
  });
});

test("the form of a schema takes the kinds that the keywords speak of, integers of bounded numbers, and values of the type", () => {
  expect(formOf({ minItems: 1 })).toEqual({ type: "array", items: {}, minItems: 1 });
  expect(formOf({ exclusiveMinimum: 1.5, maximum: 9 })).toEqual({ type: "integer", minimum: 2, maximum: 9 });
  expect(formOf({ type: "string", enum: [1, "a", "b"], const: "b" })).toEqual({ enum: ["b"] });
});

test("the form of a schema keeps definitions that are referred to, whatever their names", () => {
  const schema = { $defs: { "a/b%": { type: "null" }, unused: { not: {} } }, items: { $ref: "#/$defs/a~1b%25" } };
  expect(JSON.parse(schemaForm(schema) as string).$defs).toEqual({
    d0: { type: "array", items: { $ref: "#/$defs/d1" }, minItems: 0 },
    d1: { type: "null" },
  });
});

const many = (count: number, one: unknown) =>
  Object.fromEntries(Array.from({ length: count }, (_, i) => [`p${i}`, one]));
const deep = (levels: number): object => (levels === 0 ? {} : { items: deep(levels - 1) });

const inlined = {
  properties: many(20, { type: "string", $ref: "#/$defs/a" }),
  $defs: { a: { allOf: Array(30).fill({ minLength: 1 }) } },
};
const object = { type: "object" };
const loop = { $ref: "#/$defs/a", $defs: { a: { anyOf: [{ type: "null" }, { $ref: "#" }] } } };

test.each<[string, unknown, string, RegExp]>([
  ["another keyword", { properties: { "a/b": { multipleOf: 2 } } }, "/properties/a~1b/multipleOf", /not supp/],
  ["an assertion beside an enum", { enum: ["a"], minLength: 1 }, "/minLength", /beside enum/],
  ["types that exclude each other", { type: "null", allOf: [{ type: "array" }] }, "/allOf/0/type", /admits nothing/],
  ["a branch of no type", { oneOf: [{ type: "null" }, { properties: {} }] }, "/oneOf/1", /differ in type/],
  ["uniqueness without an enum", { items: {}, uniqueItems: true }, "/uniqueItems", /short enum/],
  ["names that may not be admitted", { required: ["a"], propertyNames: { pattern: "a" } }, "", /propertyNames/],
  ["a pattern that is none", { pattern: "(" }, "/pattern", /no regular expression/],
  ["a back reference", { pattern: "(a)[\\]]\\1" }, "/pattern", /back reference/],
  ["another dialect", { $schema: "https://example.com/own" }, "/$schema", /json-schema.org/],
  ["a loop of inlined schemas", { type: "null", $ref: "#" }, "", /refers to itself/],
  ["branches that overlap", { oneOf: [{ type: "integer" }, { type: "number" }] }, "/oneOf/1", /differ in type/],
  ["a reference elsewhere", { $ref: "https://example.com/s" }, "/$ref", /JSON pointer/],
  ["a reference to nothing", { $ref: "#/$defs/a" }, "/$ref", /not there/],
  ["a loop", loop, "", /refers to itself/],
  ["a type twice", { type: ["null", "null"] }, "/type", /names null twice/],
  ["too many types", { type: Array(8).fill("null") }, "/type", /has 8 types, the maximum is 7/],
  ["too many schemas that are inlined", inlined, "/$defs/a", /maximum of 512/],
  ["too many branches that are false", { anyOf: [true, ...Array(600).fill(false)] }, "/anyOf/511", /maximum of 512/],
  ["false", { items: { properties: { a: false }, required: ["a"] } }, "/items/properties/a", /admits nothing/],
  ["a type that is none", { type: "text" }, "/type", /no type/],
  ["bounds with nothing between", { type: "string", minLength: 3, maxLength: 2 }, "/minLength", /above maxLength: 2/],
  ["bounds with no integer between", { minimum: 1.2, maximum: 1.8 }, "", /no integer/],
  ["a long string", { type: "string", minLength: 65 }, "/minLength", /maximum is 64/],
  ["too many schemas", { properties: many(512, {}) }, "/properties/p511", /maximum of 512/],
  ["many that are false", { properties: many(300, false), anyOf: Array(3).fill(object) }, "/anyOf/2", /maximum of 512/],
  ["too many values", { enum: Array.from({ length: 513 }, (_, i) => i) }, "/enum", /513, the maximum is 512/],
  ["depth", deep(17), "/items".repeat(17), /17 levels deep, the maximum is 16/],
  ["bytes", { description: "x".repeat(20_000) }, "", /20018 bytes, the maximum is 16384/],
])("%s is refused with its place", (_, schema, pointer, fault) => {
  expect(schemaForm(schema)).toEqual({ pointer, fault: expect.stringMatching(fault) });
});

test("references that repeat at every level are followed once, so 36 levels are read within the time of a test", () => {
  const to = (i: number) => ({ $ref: `#/$defs/a${i}` });
  const own = (i: number) => (i < 2 ? { type: "string" } : { anyOf: [to(i - 1), to(i - 2)] });
  const $defs = Object.fromEntries(Array.from({ length: 36 }, (_, i) => [`a${i}`, own(i)]));
  expect(schemaForm({ anyOf: Object.keys($defs).map((_, i) => to(i)), $defs })).toBeTypeOf("string");
});

test("schemas that must hold together become one form", () => {
  const named = { properties: { name: { type: "string", maxLength: 300 } }, required: ["name"] };
  const additionalProperties = { type: ["string", "integer"] };
  const schema = {
    ...{ $ref: "#/$defs/named", type: "object", properties: { name: { minLength: 2 }, age: { minimum: 0 } } },
    allOf: [{ properties: { age: { type: "integer", maximum: 150 } }, additionalProperties }],
    $defs: { named },
  };
  const name = { type: "string", minLength: 2, maxLength: 64 };
  const age = { type: "integer", minimum: 0, maximum: 150 };
  expect(formOf(schema)).toEqual({ type: "object", properties: { name, age }, required: ["name"] });
  const one = { type: "object", properties: { a: {}, b: {} }, anyOf: [{ required: ["a"] }, { required: ["b"] }] };
  expect(formOf(one).anyOf.map(({ required }: { required: string[] }) => required)).toEqual([["a"], ["b"]]);
});

test("branches of oneOf that differ in type or in a listed property are those of anyOf", () => {
  const of = (kind: string) => ({ type: "object", properties: { kind: { const: kind } }, required: ["kind"] });
  expect(formOf({ oneOf: [of("a"), of("b"), { type: "null" }] }).anyOf).toHaveLength(3);
});
