/** Random schemas of the supported part of JSON Schema, as ajv reads them. */
import fc from "fast-check";
import { schemaForm } from "../../shared/contracts/json-schema.ts";

const leaves = fc.oneof(
  fc.constantFrom<object[]>(
    { type: "boolean" },
    { type: "null" },
    { type: "integer" },
    { type: "number" },
    { type: "string" },
  ),
  fc
    .tuple(fc.integer({ min: -2000, max: 2000 }), fc.nat(3000))
    .map(([low, size]) => ({ type: "integer", minimum: low, maximum: low + size })),
  fc
    .integer({ min: -300, max: 300 })
    .map((bound) => (bound % 2 ? { exclusiveMinimum: bound + 0.5 } : { maximum: bound })),
  fc
    .uniqueArray(fc.oneof(fc.string({ unit: "binary", maxLength: 4 }), fc.integer(), fc.boolean()), {
      minLength: 1,
      maxLength: 4,
    })
    .map((values) => ({ enum: values })),
  fc
    .tuple(fc.nat(2), fc.nat(3))
    .map(([least, more]) => ({ type: "string", minLength: least, maxLength: least + more })),
  fc
    .tuple(fc.constantFrom("^[a-c]{2,4}$", "^(?!b).*x", "é|^.$", "^\\d+(\\.\\d)?$", "^[^/]+$"), fc.nat(3))
    .map(([pattern, more]) => ({ type: "string", pattern, maxLength: 4 + more })),
  fc
    .tuple(fc.uniqueArray(fc.integer(), { minLength: 2, maxLength: 5 }), fc.nat(2))
    .map(([values, least]) => ({ type: "array", items: { enum: values }, uniqueItems: true, minItems: least })),
);
const names = fc.oneof(fc.constantFrom("a", "b", "name", "constructor"), fc.string({ unit: "binary", maxLength: 6 }));

const anySchema: fc.Arbitrary<object> = fc.letrec<{ schema: object }>((tie) => ({
  schema: fc.oneof(
    { maxDepth: 3, depthSize: "small" },
    leaves,
    fc.array(tie("schema"), { minLength: 1, maxLength: 3 }).map((anyOf) => ({ anyOf })),
    tie("schema").map((one) => ({ $comment: "the same twice", allOf: [one, one] })),
    fc
      .tuple(tie("schema"), fc.nat(2), fc.nat(2))
      .map(([items, least, more]) => ({ type: "array", items, minItems: least, maxItems: least + more })),
    fc
      .array(tie("schema"), { minLength: 1, maxLength: 3 })
      .map((prefixItems) => ({ type: "array", prefixItems, items: false })),
    fc
      .tuple(
        fc.uniqueArray(fc.tuple(names, tie("schema")), { selector: ([name]) => name, minLength: 1, maxLength: 4 }),
        fc.nat(15),
      )
      .map(([entries, bits]) => ({
        ...{ type: "object", properties: Object.fromEntries(entries), additionalProperties: false },
        required: entries.map(([name]) => name).filter((_, i) => (bits >> i) & 1),
      })),
    tie("schema").map((additionalProperties) => ({ type: "object", additionalProperties })),
  ),
})).schema;

/** Without schemas that are refused, such as an `allOf` whose branches exclude each other. */
export const randomSchema = anySchema.filter((schema) => typeof schemaForm(schema) === "string");
