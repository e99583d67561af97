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

test.each(requests)(
  "a $name request's field is absent, null or undefined alike, and its default is frozen",
  (request) => {
    const { schema, required } = request;
    const absent = schema.parse(required);
    const sampling = "sampling" in absent ? Object.keys(samplingFields) : [];
    for (const name of [...Object.keys(absent), ...sampling].filter((one) => !(one in required))) {
      for (const nothing of [null, undefined]) {
        expect(schema.parse({ ...required, [name]: nothing }), name).toEqual(absent);
      }
    }
    // `sampling` is left out: each request has its own.
    for (const [name, value] of Object.entries(absent)) {
      if (name in required || name === "sampling" || typeof value !== "object" || value === null) continue;
      expect(Object.isFrozen(value), name).toBe(true);
    }
  },
);

test("of a long list of bad entries the first is reported, and few others", () => {
  const { error } = addDocumentsRequestSchema.safeParse({ documents: ["a", ...Array(9_999).fill(1)] });
  expect(error!.issues[0].path).toEqual(["documents", 1]);
  expect(error!.issues.length).toBeLessThan(100);
});
