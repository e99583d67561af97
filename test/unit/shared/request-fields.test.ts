/** The defaults of a request's fields, which no request can change for others, and how lists are refused. */
import { expect, test } from "vitest";
import { chatRequestSchema } from "../../../shared/contracts/chat.ts";
import {
  addDocumentsRequestSchema,
  assignRequestSchema,
  completionRequestSchema,
  embeddingsRequestSchema,
} from "../../../shared/contracts/openai.ts";
import { samplingFields } from "../../../shared/contracts/sampling.ts";

const input = "a";
const requests = [
  { name: "completion", schema: completionRequestSchema, required: {} },
  { name: "chat", schema: chatRequestSchema, required: { messages: [{ role: "user", content: "a" }] } },
  { name: "embeddings", schema: embeddingsRequestSchema, required: { input } },
  { name: "assign", schema: assignRequestSchema, required: { input } },
];

test.each(requests)("a field of a $name request is absent, null or undefined alike", ({ schema, required }) => {
  const absent = schema.parse(required);
  const sampling = "sampling" in absent ? Object.keys(samplingFields) : [];
  for (const name of [...Object.keys(absent), ...sampling].filter((one) => !(one in required))) {
    for (const nothing of [null, undefined]) {
      expect(schema.parse({ ...required, [name]: nothing }), name).toEqual(absent);
    }
  }
});

test.each(requests)("the default of an absent field of a $name request cannot be changed", ({ schema, required }) => {
  const absent = Object.entries(schema.parse(required)).filter(([name]) => !(name in required));
  // `sampling` is left out: each request has its own.
  const objects = absent.filter(([name, value]) => name !== "sampling" && typeof value === "object" && value !== null);
  for (const [name, value] of objects) expect(Object.isFrozen(value), name).toBe(true);
});

test("of a long list of bad entries the first is reported, and few others", () => {
  const { error } = addDocumentsRequestSchema.safeParse({ documents: ["a", ...Array(9_999).fill(1)] });
  expect(error!.issues[0].path).toEqual(["documents", 1]);
  expect(error!.issues.length).toBeLessThan(100);
});
