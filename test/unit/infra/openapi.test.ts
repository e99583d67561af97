/** The API's document is valid, and has every error and every limit. test/in-runtime checks that it has every route. */
import { Validator } from "@seriousme/openapi-schema-validator";
import { expect, test } from "vitest";
import { openApiDocument } from "../../../infra/openapi/document.ts";
import { operations } from "../../../infra/openapi/operations.ts";
import { limits } from "../../../shared/contracts/limits.ts";
import { type ErrorKind, envelopeOf, errorKinds, ServiceError, statusOf } from "../../../shared/errors.ts";
import { DocumentSchemas, PublishedSchemas } from "../../support/answer-schemas.ts";

const document = openApiDocument("1.2.3");
const operationsOf = Object.entries(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({ path, method, operation: operation as OperationObject })),
);
interface JsonSchema {
  type?: string | string[];
  maxItems?: number;
  maxProperties?: number;
  additionalProperties?: unknown;
  items?: JsonSchema;
  properties?: Record<string, JsonSchema>;
  required?: string[];
  anyOf?: JsonSchema[];
}
const { schemas } = document.components as unknown as { schemas: Record<string, JsonSchema> };
interface OperationObject {
  responses: Record<string, { content: Record<string, { examples?: Record<string, { value: unknown }> }> }>;
}

test("is valid OpenAPI 3.1", async () => {
  const { valid, errors } = await new Validator().validate(structuredClone(document));
  expect(errors).toBeUndefined();
  expect(valid).toBe(true);
  expect(document).toMatchObject({ openapi: "3.1.0", info: { version: "1.2.3" } });
  expect(new Set(operations.map(({ id }) => id)).size).toBe(operations.length);
});

test("names every way to fail that a client can meet, with its status and its envelope", () => {
  const told = new Map<ErrorKind, Set<number>>();
  for (const { operation } of operationsOf) {
    for (const [status, response] of Object.entries(operation.responses)) {
      for (const [kind, { value }] of Object.entries(response.content["application/json"]?.examples ?? {})) {
        told.set(kind as ErrorKind, (told.get(kind as ErrorKind) ?? new Set()).add(Number(status)));
        const { error } = value as { error: { message: string } };
        expect(value).toEqual(envelopeOf(new ServiceError(kind as ErrorKind, error.message)));
      }
    }
  }
  // Callers never get these errors: they occur between edge and backend, or concern a client that has left.
  const unmet = "bad_signature manifest_mismatch version_mismatch misdirected cancelled memory_not_found".split(" ");
  expect([...told.keys()].sort()).toEqual(errorKinds.filter((kind) => !unmet.includes(kind)).sort());
  for (const [kind, statuses] of told) expect([...statuses]).toEqual([statusOf(kind)]);
});

test("shows the limits in a collapsed table, each with its value, its unit and what it bounds", () => {
  const pattern = /<details><summary>[^<]*<\/summary>\n\n(\| Name .*?)\n\n<\/details>$/s;
  const [head, , ...lines] = pattern.exec(document.info.description)![1].split("\n");
  const rows = lines.map((line) => line.slice(2, -2).split(" | "));
  expect(head).toBe("| Name | Maximum | Unit | Applies to |");
  expect(rows.map(([name, value]) => [name, Number(value)])).toEqual(
    Object.entries(limits).map(([name, value]) => [`\`${name}\``, value]),
  );
  for (const row of rows) {
    expect(row, row[0]).toHaveLength(4);
    expect(row[2], row[0]).toMatch(/^([a-z]+|–)$/);
    expect(row[3].length, row[0]).toBeGreaterThan(2);
  }
});

test("bounds every string, every list and every open object of every request", () => {
  const open: string[] = [];
  /** Lists that are refused unless every entry is `text`, so they need no bound. */
  const refused = /\.modalities/;
  let seen = 0;
  const walk = (schema: JsonSchema, at: string) => {
    seen++;
    const isClosed = "enum" in schema || "const" in schema || "format" in schema || "maxLength" in schema;
    const types = [schema.type].flat();
    if (types.includes("string") && !isClosed) open.push(at);
    if (types.includes("array") && schema.maxItems === undefined) open.push(at);
    // Fields that a request must not set are always refused, and other unknown fields are dropped.
    if (types.includes("object") && schema.additionalProperties && schema.maxProperties === undefined) open.push(at);
    if (schema.items) walk(schema.items, `${at}[]`);
    for (const [name, one] of Object.entries(schema.properties ?? {})) walk(one, `${at}.${name}`);
    for (const one of schema.anyOf ?? []) walk(one, at);
  };
  for (const { request } of operations) if (request) walk(schemas[request.schema], request.schema);
  expect(seen).toBeGreaterThan(50);
  expect(open.filter((at) => !refused.test(at))).toEqual([]);
});

test("shows bounds and defaults of the fields of requests", () => {
  const { n, temperature, prompt } = schemas.CompletionRequest.properties!;
  expect(n).toMatchObject({ anyOf: [{ minimum: 1, maximum: limits.choicesPerPrompt }, {}], default: 1 });
  expect(temperature).toMatchObject({ anyOf: [{ minimum: 0, maximum: limits.temperature }, {}], default: 1 });
  expect(JSON.stringify(prompt)).toContain(`"maxItems":${limits.promptsPerRequest}`);
  expect(schemas.ChatRequest.properties!.messages).toMatchObject({ maxItems: limits.chatMessages });
  expect(schemas.ChatRequest.required).toEqual(["messages"]);
  expect(schemas.EmbeddingsRequest.required).toEqual(["input"]);
});

test("its examples keep to its schemas, and every error's envelope to OpenAI's", async () => {
  const ours = new DocumentSchemas();
  const published = await PublishedSchemas.read();
  for (const { method, path, request } of operations) {
    if (request) expect(ours.request(method, path)(request.example), path).toBe(true);
  }
  for (const kind of errorKinds) {
    const envelope = envelopeOf(new ServiceError(kind, "because", { param: "n" }));
    expect(published.response("", statusOf(kind), false)!(envelope), kind).toBe(true);
  }
});
