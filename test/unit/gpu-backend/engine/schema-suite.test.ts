/** JSON Schema's own test suite under our grammars. ajv judges the texts that are drawn, the suite judges its own instances. */
import { Ajv2020 } from "ajv/dist/2020.js";
import { afterAll, expect, test } from "vitest";
import { schemaForm } from "../../../../shared/contracts/json-schema.ts";
import { drawnValue, grammars, isAdmitted } from "../../../support/grammar-texts.ts";
import { groups, servedGroups } from "../../../support/schema-suite.ts";
import { seededRandom } from "../../../support/steps.ts";

const seed = Number(process.env.SCHEMA_SEED ?? 4711);

afterAll(() => grammars.close());

test("schemas of the suite are served, or refused with a place and a reason", () => {
  expect(servedGroups.length).toBeGreaterThanOrEqual(161);
  for (const { schema } of groups) {
    const form = schemaForm(schema);
    if (typeof form === "string") continue;
    expect(form).toEqual({ pointer: expect.any(String), fault: expect.stringMatching(/\w+ \w+/) });
  }
});

test(`a text that ends is valid (seed ${seed})`, async () => {
  const random = seededRandom(seed);
  let ended = 0;
  for (const { schema, form, file, description } of servedGroups) {
    const { ended: isEnded, value } = await drawnValue(form, random);
    if (!isEnded) continue;
    ended++;
    const ajv = new Ajv2020({ strict: false, ownProperties: true, validateFormats: false });
    expect(ajv.validate(schema, value), `${file}: ${description}\n${JSON.stringify(value)}`).toBe(true);
  }
  expect(ended).toBeGreaterThan(servedGroups.length * 0.8);
}, 120_000);

/** A value's text as grammars write it, with properties in the order in which the schema names them. */
function spelled(value: unknown, schema: string): string {
  if (Array.isArray(value)) return `[${value.map((one) => spelled(one, schema)).join(", ")}]`;
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  const place = (name: string) => schema.indexOf(`${JSON.stringify(name)}:`);
  const entries = Object.entries(value).sort(([a], [b]) => place(a) - place(b));
  return `{${entries.map(([name, one]) => `${JSON.stringify(name)}: ${spelled(one, schema)}`).join(", ")}}`;
}

test("no invalid instance of the suite is admitted, and most valid ones are", async () => {
  const missed: string[] = [];
  let valid = 0;
  for (const { schema, form, tests, file, description } of servedGroups) {
    for (const { data, valid: isValid, description: instance } of tests) {
      const isIn = await isAdmitted(form, spelled(data, JSON.stringify(schema)));
      if (!isValid) expect(isIn, `${file}: ${description}: ${instance}`).toBe(false);
      if (isValid) valid++;
      if (isValid && !isIn) missed.push(`${file}: ${description}: ${instance}: ${JSON.stringify(data)}`);
    }
  }
  const admitted = valid - missed.length;
  expect(admitted / valid, `${admitted} of ${valid}; not\n${missed.join("\n")}`).toBeGreaterThan(0.85);
}, 120_000);
