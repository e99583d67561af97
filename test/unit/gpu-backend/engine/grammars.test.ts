import { Ajv2020 } from "ajv/dist/2020.js";
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { anyObject, schemaForm } from "../../../../shared/contracts/json-schema.ts";
import {
  allowedIds,
  drawn,
  drawnValue,
  grammars,
  openRow,
  stopIds,
  tokenizer,
} from "../../../support/grammar-texts.ts";
import { randomSchema } from "../../../support/random-schemas.ts";
import { seededRandom } from "../../../support/steps.ts";

afterAll(() => grammars.close());

const seed = Number(process.env.SCHEMA_SEED ?? 4711);

describe("texts under a grammar", () => {
  test(`that end are JSON that the schema admits (seed ${seed})`, async () => {
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

  test("may end exactly where they are complete, and have no white space but one after a comma or colon", async () => {
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

  test("go on alike where a row is opened with the tokens so far", async () => {
    const form = schemaForm({
      properties: { a: { type: "array", items: { enum: [1, 23] } } },
      required: ["a"],
    }) as string;
    const { ids } = await drawn(form, seededRandom(3));
    for (let count = 0; count < ids.length; count++) {
      const [begun, resumed] = [await openRow(form), await openRow(form, ids.slice(0, count))];
      for (const id of ids.slice(0, count)) await begun.advance(id);
      expect(resumed.row.allowed).toEqual(begun.row.allowed);
      begun.row.close();
      resumed.row.close();
    }
  });
});

test("tokens that the schema does not admit are refused, and rows beside them are not disturbed", async () => {
  const beside = await openRow(anyObject);
  await expect(openRow(anyObject, tokenizer.encode("no"))).rejects.toMatchObject({
    ...{ kind: "invalid_request", param: "response_format" },
  });
  await beside.advance(tokenizer.encode("{")[0]);
  expect(allowedIds(beside.row).length).toBeGreaterThan(0);
  beside.row.close();
});

test("a grammar that takes too long to compile is refused, the next time at once, and rows go on", async () => {
  const beside = await openRow(anyObject);
  const schema = {
    properties: Object.fromEntries(
      Array.from({ length: 100 }, (_, i) => [`p${i}`, { type: "string", maxLength: 1 + (i % 32) }]),
    ),
  };
  const form = schemaForm(schema) as string;
  const refusal = {
    kind: "invalid_request",
    message: expect.stringMatching(/cannot be compiled: it takes more than 2000 ms/),
  };
  await expect(openRow(form)).rejects.toMatchObject(refusal);
  const [again, other] = [openRow(form).catch((error) => error.kind), openRow(anyObject)];
  expect(await Promise.race([again, other])).toBe(refusal.kind);
  (await other).row.close();
  await beside.advance(tokenizer.encode("{")[0]);
  beside.row.close();
}, 30_000);
