/** Validators for the API's answers: by OpenAI's published schemas, and by our own OpenAPI document. */
import { readFile } from "node:fs/promises";
import { Ajv2020, type ValidateFunction } from "ajv/dist/2020.js";
import { openApiDocument } from "../../infra/openapi/document.ts";

type Schema = Record<string, unknown>;
interface Operation {
  requestBody?: { content: { "application/json": { schema: Schema } } };
  responses: Record<string, { content: Record<string, { schema: Schema; "x-event-schema"?: Schema }> }>;
}

/** `format` is not checked, because ajv does not know OpenAI's own (`unixtime`, `float`). */
const options = { strict: false, validateFormats: false, allErrors: true };

const document = openApiDocument("0.0.0");
const operations = document.paths as unknown as Record<string, Record<string, Operation>>;

/** A property that our OpenAPI document does not name is an error. */
export class DocumentSchemas {
  readonly #ajv = new Ajv2020(options);

  constructor() {
    this.#ajv.addSchema({ $id: "document", components: { schemas: closed(document.components.schemas) } });
  }

  request(method: string, path: string): ValidateFunction {
    const [{ schema }] = Object.values(operations[path][method].requestBody!.content);
    return this.#compiled(schema);
  }

  response(method: string, path: string, status: number, media: string): ValidateFunction {
    const content = operations[path]?.[method]?.responses[status]?.content[media];
    if (!content) throw new Error(`the document has no ${media} of status ${status} for ${method} ${path}`);
    return this.#compiled(content["x-event-schema"] ?? content.schema);
  }

  #compiled(schema: Schema): ValidateFunction {
    return this.#ajv.compile({ $ref: String(schema.$ref).replace("#/", "document#/") });
  }
}

/** Names of OpenAI's schemas for a route's whole answer and for its events. */
const publishedNames: Record<string, { whole: string; event?: string }> = {
  "/v1/completions": { whole: "CreateCompletionResponse", event: "StreamedCompletion" },
  "/v1/chat/completions": { whole: "CreateChatCompletionResponse", event: "CreateChatCompletionStreamResponse" },
  "/v1/embeddings": { whole: "CreateEmbeddingResponse" },
  "/v1/models": { whole: "ListModelsResponse" },
  "/v1/models/{id}": { whole: "Model" },
};

export class PublishedSchemas {
  readonly #ajv = new Ajv2020(options);

  static async read(): Promise<PublishedSchemas> {
    const file = await readFile(new URL("openai-schemas.json", import.meta.url), "utf8");
    return new PublishedSchemas((JSON.parse(file) as { schemas: Record<string, Schema> }).schemas);
  }

  private constructor(published: Record<string, Schema>) {
    const schemas = nullable(published) as Record<string, Completion>;
    // OpenAI's description leaves out two facts. First: an echoed prompt's first token has no logprob.
    const completion = schemas.CreateCompletionResponse;
    const choice = completion.properties.choices.items;
    const logprobs = choice.properties.logprobs.anyOf[0] as { properties: Record<string, Schema> };
    logprobs.properties.token_logprobs = { type: "array", items: { type: ["number", "null"] } };
    // Second: only the last chunk of a streamed completion has a finish reason, and only it may have usage.
    const streamed = structuredClone(completion);
    streamed.properties.choices.items.properties.finish_reason = {
      enum: [...choice.properties.finish_reason.enum, null],
    };
    streamed.properties.usage = { anyOf: [streamed.properties.usage, { type: "null" }] };
    schemas.StreamedCompletion = streamed;
    this.#ajv.addSchema({ $id: "openai", components: { schemas } });
  }

  response(path: string, status: number, isEvent: boolean): ValidateFunction | null {
    const { whole, event } = publishedNames[path] ?? {};
    const name = status >= 400 ? "ErrorResponse" : isEvent ? event : whole;
    return name ? this.#ajv.compile({ $ref: `openai#/components/schemas/${name}` }) : null;
  }
}

interface Completion extends Schema {
  properties: {
    choices: {
      items: { properties: { logprobs: { anyOf: unknown[] }; finish_reason: { enum: unknown[] } & Schema } };
    };
    usage: Schema;
  } & Schema;
}

/** Forbids unnamed properties, at any depth. */
function closed(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(closed);
  if (typeof value !== "object" || value === null) return value;
  const inner = Object.fromEntries(Object.entries(value).map(([name, one]) => [name, closed(one)]));
  return "properties" in inner && inner.type === "object" ? { additionalProperties: false, ...inner } : inner;
}

/** Translates OpenAPI 3.0's `nullable`, which OpenAI's description uses in places. */
function nullable(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(nullable);
  if (typeof value !== "object" || value === null) return value;
  const { nullable: isNullable, ...rest } = value as Schema;
  const inner = Object.fromEntries(Object.entries(rest).map(([name, one]) => [name, nullable(one)]));
  return isNullable === true ? { anyOf: [inner, { type: "null" }] } : inner;
}
