/**
 * Takes what our answers are held to out of OpenAI's published API description, and writes openai-schemas.json.
 * Run: node test/support/extract-openai-schemas.ts DESCRIPTION (openapi.json as OpenAI publishes it)
 */
import { readFile, writeFile } from "node:fs/promises";

const roots = [
  "CreateCompletionResponse",
  "CreateChatCompletionResponse",
  "CreateChatCompletionStreamResponse",
  "CreateEmbeddingResponse",
  "ListModelsResponse",
  "Model",
  "ErrorResponse",
];
/** Prose and hints for generators. */
const dropped = new Set(["description", "x-oaiMeta", "x-stainless-const", "example"]);
const reference = "#/components/schemas/";

interface Description {
  info: { version: string };
  components: { schemas: Record<string, unknown> };
}

const description = JSON.parse(await readFile(process.argv[2], "utf8")) as Description;
const { schemas } = description.components;
const taken: Record<string, unknown> = {};
const take = (name: string): void => {
  if (Object.hasOwn(taken, name)) return;
  taken[name] = withoutProse(schemas[name]);
  for (const [, other] of JSON.stringify(schemas[name]).matchAll(/"#\/components\/schemas\/([^"]+)"/g)) take(other);
};
roots.forEach(take);

const licence =
  'From OpenAI\'s OpenAPI description (github.com/openai/openai-openapi), shortened. MIT License. Copyright (c) OpenAI. Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files (the "Software"), to deal in the Software without restriction, including without limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do so, subject to the following conditions: The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software. THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.';
const made = { licence, version: description.info.version, reference, schemas: taken };
await writeFile(`${import.meta.dirname}/openai-schemas.json`, `${JSON.stringify(made, null, 1)}\n`);

/** A property may be called as prose is: only a keyword's value that is text is one. */
function withoutProse(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutProse);
  if (typeof value !== "object" || value === null) return value;
  const kept = Object.entries(value).filter(
    ([name, inner]) => !dropped.has(name) || (typeof inner === "object" && name === "description"),
  );
  return Object.fromEntries(kept.map(([name, inner]) => [name, withoutProse(inner)]));
}
