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

test.each(requests)("a $name request's field is absent, null or undefined alike; its default is frozen", (request) => {
  const { schema, required } = request;
  const absent = schema.parse(required);
  const sampling = "sampling" in absent ? Object.keys(samplingFields) : [];
  for (const name of [...Object.keys(absent), ...sampling].filter((one) => !(one in required))) {
    for (const nothing of [null, undefined]) {
      expect(schema.parse({ ...required, [name]: nothing }), name).toEqual(absent);
    }
  }
  // `sampling` is left out: each request gets an object of its own.
  for (const [name, value] of Object.entries(absent)) {
    if (name in required || name === "sampling" || typeof value !== "object" || value === null) continue;
    expect(Object.isFrozen(value), name).toBe(true);
  }
});

test("of a long list of bad entries the first is reported, and few others", () => {
  const { error } = addDocumentsRequestSchema.safeParse({ documents: ["a", ...Array(9_999).fill(1)] });
  expect(error!.issues[0].path).toEqual(["documents", 1]);
  expect(error!.issues.length).toBeLessThan(100);
});

const documentRule = "it must be a text that is not empty, or an object with such a text and a name";

test.each<[documents: unknown, message: string, path: PropertyKey[]]>([
  [undefined, "documents is null; it must be a list", []],
  [[], "documents has 0 entries, the minimum is 1", []],
  [Array(10_001).fill("a"), "documents has 10001 entries, the maximum is 10000", []],
  [["a", ""], "documents[1] has 0 characters, the minimum is 1", [1]],
  [[{ text: "" }], "documents[0].text has 0 characters, the minimum is 1", [0, "text"]],
  [[{ name: "x".repeat(257), text: "" }], "documents[0].name has 257 characters, the maximum is 256", [0, "name"]],
  [[{ name: "😀".repeat(257), text: "a" }], "documents[0].name has 257 characters, the maximum is 256", [0, "name"]],
  [["a", ["a"]], `a document is a list of 1; ${documentRule}`, [1]],
  [[{ name: 1, text: "a" }], `a document is an object; ${documentRule}`, [0]],
  [[null], `a document is null; ${documentRule}`, [0]],
])("documents are refused by the first fault: %j", (documents, message, path) => {
  const { error } = addDocumentsRequestSchema.safeParse({ documents });
  expect(error!.issues).toEqual([expect.objectContaining({ message, path: ["documents", ...path] })]);
});

test("a document's name may have as many characters outside the basic plane as others", () => {
  const document = { name: "😀".repeat(256), text: "a" };
  expect(addDocumentsRequestSchema.parse({ documents: [document] }).documents).toEqual([document]);
});

test("each of many documents is read once, without unknown fields", () => {
  let reads = 0;
  const entry = {
    get text() {
      reads++;
      return "a";
    },
    other: 1,
  };
  const { documents } = addDocumentsRequestSchema.parse({ documents: ["b", ...Array(9_999).fill(entry)] });
  expect(documents.slice(0, 2)).toEqual([
    { name: null, text: "b" },
    { name: null, text: "a" },
  ]);
  expect(reads).toBe(9_999);
});
