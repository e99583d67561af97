import { Ajv2020 } from "ajv/dist/2020.js";
import fc from "fast-check";
import { afterAll, expect, test } from "vitest";
import { CallReader } from "../../../../edge/answer/call-reader.ts";
import { grammarOf } from "../../../../gpu-backend/engine/grammar.ts";
import { anyObject, schemaForm } from "../../../../shared/contracts/json-schema.ts";
import { limits } from "../../../../shared/contracts/limits.ts";
import { askedCalls, callText, type ToolChoice } from "../../../../shared/contracts/tools.ts";
import {
  allowedIds,
  drawn,
  drawnValue,
  grammars,
  isAdmitted,
  openRow,
  stopIds,
  tokenizer,
  vocabularySize,
} from "../../../support/grammar-texts.ts";
import { randomSchema } from "../../../support/random-schemas.ts";
import { seededRandom } from "../../../support/steps.ts";

afterAll(() => grammars.close());

const seed = Number(process.env.SCHEMA_SEED ?? 4711);

test(`texts under a grammar that end are JSON that the schema admits (seed ${seed})`, async () => {
  const random = seededRandom(seed);
  const ajv = new Ajv2020({ strict: false, ownProperties: true });
  let ended = 0;
  for (const schema of fc.sample(randomSchema, { seed, numRuns: 30 })) {
    const validate = ajv.compile(schema);
    for (let run = 0; run < 3; run++) {
      const { ended: isEnded, value } = await drawnValue(schemaForm(schema) as string, random);
      if (!isEnded) continue;
      ended++;
      expect(validate(value), `${JSON.stringify(schema)}\n${JSON.stringify(value)}`).toBe(true);
    }
  }
  expect(ended).toBeGreaterThan(45);
}, 60_000);

test("texts under a grammar may end exactly where they are complete, and have no white space but one after a comma or colon", async () => {
  const { row, advance } = await openRow(anyObject);
  const at = async (text: string) => {
    for (const id of tokenizer.encode(text)) await advance(id);
    return allowedIds(row).map((id) => (stopIds.includes(id) ? "end" : tokenizer.decode([id])));
  };
  expect(allowedIds(row).some((id) => stopIds.includes(id))).toBe(false);
  const afterKey = await at('{"a":');
  expect(afterKey.filter((text) => /^\s/.test(text)).every((text) => /^ [^\s]*$/.test(text))).toBe(true);
  expect(afterKey).not.toContain("end");
  expect(await at(" 1}")).toEqual(stopIds.map(() => "end"));
  row.close();
});

test("texts under a grammar have neither U+2028 nor U+2029, whose bytes come one by one", async () => {
  const idOf = (...bytes: number[]) => {
    const ids = Array.from({ length: vocabularySize }, (_, id) => id);
    return ids.find((id) => Buffer.from(bytes).equals(tokenizer.textPieceOf(id)))!;
  };
  const { row, advance } = await openRow(schemaForm({ type: "string" }) as string);
  for (const byte of [0x22, 0xe2, 0x80]) await advance(idOf(byte));
  const isAllowed = (byte: number) => allowedIds(row).includes(idOf(byte));
  expect([0xa7, 0xa8, 0xa9, 0xaa].map(isAllowed)).toEqual([true, false, false, true]);
  row.close();
});

test("texts under a grammar go on alike where a row is opened with the tokens so far", async () => {
  const properties = { a: { type: "array", items: { enum: [1, 23] } } };
  const form = schemaForm({ properties, required: ["a"] }) as string;
  const { ids } = await drawn(form, seededRandom(3));
  for (let count = 0; count < ids.length; count++) {
    const [begun, resumed] = [await openRow(form), await openRow(form, ids.slice(0, count))];
    for (const id of ids.slice(0, count)) await begun.advance(id);
    expect(resumed.row.allowed).toEqual(begun.row.allowed);
    begun.row.close();
    resumed.row.close();
  }
});

const nested = (levels: number, around: (inner: object) => object): object =>
  levels === 0 ? { enum: ["a".repeat(3000)] } : around(nested(levels - 1, around));
test.each<[string, (inner: object) => object]>([
  ["lists", (items) => ({ type: "array", items })],
  ["open objects", (additionalProperties) => ({ type: "object", additionalProperties })],
  ["optional properties", (b) => ({ type: "object", properties: { a: { type: "null" }, b } })],
  ["lists of either of two", (b) => ({ type: "array", items: { anyOf: [{ type: "null" }, b] } })],
])("the grammar of nested schemas of %s has no more of them at each level", (_, around) => {
  const [few, more] = [1, 7].map((levels) => grammarOf(schemaForm(nested(levels, around)) as string).length);
  expect(more - few).toBeLessThan(2000);
});

test("the grammar of nested schemas is refused where it is too long, and rows go on", async () => {
  const beside = await openRow(anyObject);
  const items = { type: "string", $ref: "#/$defs/long" };
  const lists = Array.from({ length: 10 }, (_, i) => [`p${i}`, { type: "array", items, maxItems: i + 2 }]);
  const properties = Object.fromEntries(lists);
  const form = schemaForm({ properties, $defs: { long: { enum: ["é".repeat(6000)] } } }) as string;
  const message = expect.stringMatching(/its grammar has \d+ characters or more, the maximum is 1048576/);
  await expect(openRow(form)).rejects.toMatchObject({ kind: "invalid_request", message });
  await beside.advance(tokenizer.encode("{")[0]);
  beside.row.close();
});

const text = { type: "object", properties: { text: { type: "string", maxLength: 9 } }, required: ["text"] };
const schemas: Record<string, Record<string, unknown>> = {
  // Functions whose names begin alike, functions whose definitions have the same name, and one without arguments.
  get: { type: "object", properties: { a: { $ref: "#/$defs/x" } }, required: ["a"], $defs: { x: { enum: [1, 12] } } },
  get_a: { ...text, $defs: { x: { type: "string" } } },
  get_ab: { type: "object", properties: { n: { type: "integer", minimum: -5, maximum: 120 } } },
  no: { type: "object", additionalProperties: false },
};
const functions = Object.entries(schemas).map(([name, parameters]) => ({
  ...{ name, description: null },
  parameters: { schema: { ...parameters, type: "object" as const }, form: schemaForm(parameters) as string },
}));
const formOf = (choice: ToolChoice, isParallel = true, format: string | null = null) =>
  askedCalls(functions, { tool_choice: choice, parallel_tool_calls: isParallel }, format).form!;
const ajv = new Ajv2020({ strict: false });
const validate = Object.fromEntries(Object.entries(schemas).map(([name, one]) => [name, ajv.compile(one)]));

/** The calls in a finished text. Each is checked against its function's schema. */
function callsIn(form: string, ids: readonly number[]) {
  const { text, calls } = new CallReader(form).push(tokenizer.decodeText(ids), true);
  for (const { name, arguments: json, isWhole } of calls) {
    expect(isWhole).toBe(true);
    expect(validate[name!](JSON.parse(json)), `${name} ${json}`).toBe(true);
  }
  return { text, names: calls.map(({ name }) => name) };
}

test(`only calls of functions are drawn where calls are required (seed ${seed})`, async () => {
  const random = seededRandom(seed);
  const counts: number[] = [];
  const called = new Set<string | null>();
  for (let run = 0; run < 24; run++) {
    const form = formOf("required", run % 3 > 0);
    const { ids, ended } = await drawn(form, random, 200);
    if (!ended) continue;
    const { text, names } = callsIn(form, ids);
    expect(text).toBe("");
    counts.push(names.length);
    if (run % 3 === 0) expect(names).toHaveLength(1);
    for (const name of names) called.add(name);
  }
  expect(Math.max(...counts)).toBeLessThanOrEqual(limits.toolCalls);
  expect([...called].sort()).toEqual(Object.keys(schemas));
  const named = formOf({ name: "get_a" });
  const { ids, ended } = await drawn(named, random, 200);
  if (ended) expect(callsIn(named, ids).names).toEqual(["get_a"]);
}, 60_000);

const call = callText("get_ab", '{"n": 120}');
const repeated = (count: number) => Array(count).fill(call).join("\n");
test.each<[string, string, boolean]>([
  [formOf("auto"), "Any text, <tool>, <tool_call and\n\té.", true],
  [formOf("auto"), "", true],
  [formOf("auto"), `Let me see.\n${call}`, true],
  [formOf("auto"), `${call}\n${callText("no", "{}")}`, true],
  [formOf("auto"), `${call}\nSo it is.`, false],
  [formOf("auto"), `<tool_call>`, false],
  [formOf("auto"), callText("get_ab", '{"n": 121}'), false],
  [formOf("auto"), callText("get_abc", '{"n": 1}'), false],
  [formOf("auto"), callText("get", '{"n": 1}'), false],
  [formOf("auto", false), call, true],
  [formOf("auto", false), repeated(2), false],
  [formOf("auto"), repeated(limits.toolCalls), true],
  [formOf("auto"), repeated(limits.toolCalls + 1), false],
  [formOf("required"), call, true],
  [formOf("required"), "", false],
  [formOf("required"), ` ${call}`, false],
  [formOf({ name: "no" }), callText("no", "{}"), true],
  [formOf({ name: "no" }), call, false],
  [formOf("auto", true, schemaForm(text) as string), '{"text": "a"}', true],
  [formOf("auto", true, schemaForm(text) as string), call, true],
  [formOf("auto", true, schemaForm(text) as string), "text", false],
])("calls of functions %#: %s %j: %j", async (form, text, expected) => {
  expect(await isAdmitted(form, text)).toBe(expected);
});

test("tokens that a schema or functions do not admit are refused by their field, and rows beside them are not disturbed", async () => {
  const beside = await openRow(anyObject);
  const refused = (form: string) => expect(openRow(form, tokenizer.encode("no"))).rejects;
  await refused(anyObject).toMatchObject({ kind: "invalid_request", param: "response_format" });
  await refused(formOf("required")).toMatchObject({ kind: "invalid_request", param: "tools" });
  await beside.advance(tokenizer.encode("{")[0]);
  expect(allowedIds(beside.row).length).toBeGreaterThan(0);
  beside.row.close();
});

test("a grammar that takes too long to compile is refused, the next time at once, and rows go on", async () => {
  const beside = await openRow(anyObject);
  const properties = Object.fromEntries(Array.from({ length: 490 }, (_, i) => [`p${i}`, { type: "string" }]));
  const form = schemaForm({ properties }) as string;
  const message = expect.stringMatching(/cannot be compiled: it takes more than 2000 ms/);
  await expect(openRow(form)).rejects.toMatchObject({ kind: "invalid_request", message });
  const [again, other] = [openRow(form).catch((error) => error.kind), openRow(anyObject)];
  expect(await Promise.race([again, other])).toBe("invalid_request");
  (await other).row.close();
  await beside.advance(tokenizer.encode("{")[0]);
  beside.row.close();
}, 30_000);
