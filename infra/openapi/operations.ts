/** The operations of the API document: what no schema describes. A test compares them with the routes of the app. */
import type { z } from "zod";
import { chatRequestSchema } from "../../shared/contracts/chat.ts";
import { heartbeatMs } from "../../shared/contracts/inference.ts";
import { limits } from "../../shared/contracts/limits.ts";
import {
  assignRequestSchema,
  completionRequestSchema,
  createAdapterRequestSchema,
  embeddingsRequestSchema,
  usageQuerySchema,
} from "../../shared/contracts/openai.ts";
import * as responses from "../../shared/contracts/responses.ts";
import type { Scope } from "../../shared/contracts/tenants.ts";
import type { ErrorKind } from "../../shared/errors.ts";

/** Named schemas of the document. */
export const schemas = {
  CompletionRequest: completionRequestSchema,
  ChatCompletionRequest: chatRequestSchema,
  EmbeddingsRequest: embeddingsRequestSchema,
  AssignRequest: assignRequestSchema,
  CreateAdapterRequest: createAdapterRequestSchema,
  Completion: responses.completionResponseSchema,
  ChatCompletion: responses.chatResponseSchema,
  ChatCompletionChunk: responses.chatChunkSchema,
  Embeddings: responses.embeddingsResponseSchema,
  Model: responses.modelSchema,
  ModelList: responses.modelListSchema,
  Assignments: responses.assignResponseSchema,
  CentroidList: responses.centroidListSchema,
  Adapter: responses.adapterSchema,
  AdapterList: responses.adapterListSchema,
  AdapterDeleted: responses.adapterDeletedSchema,
  TenantErased: responses.tenantErasedSchema,
  UsageReport: responses.usageReportSchema,
  Health: responses.healthSchema,
  Ready: responses.readySchema,
  ChameleonBlock: responses.chameleonBlockSchema,
  Usage: responses.usageSchema,
  Error: responses.errorSchema,
} satisfies Record<string, z.ZodType>;
export type SchemaName = keyof typeof schemas;

export interface Operation {
  method: "get" | "post" | "delete";
  /** In OpenAPI's form: `/v1/models/{id}`. */
  path: string;
  id: string;
  tag: "Generate" | "Embed and assign" | "Models and adapters" | "Tenant" | "Service" | "Pages";
  summary: string;
  description?: string;
  /** Scope that the key needs; null: any key; undefined: no key. */
  scope?: Scope | null;
  query?: z.ZodObject;
  /** The path parameter. */
  parameter?: { name: string; description: string };
  request?: { schema: SchemaName; example: object };
  status?: 200 | 201;
  response: SchemaName | { media: string; description: string };
  /** Schema of the events, if it can stream. */
  events?: SchemaName;
  /** In addition to the errors of every route, of routes with a key, and of routes with a body. */
  errors?: ErrorKind[];
}

const answers = `Without \`stream\`, an answer that takes more than ${heartbeatMs / 1000} s after its first token begins with status 200 and spaces, followed by its JSON; if it fails after that, the connection is closed. A stream with more than ${limits.unreadBytes / 1024} KiB unread ends in an error event.`;

const generates: ErrorKind[] = [
  "context_length_exceeded",
  "model_not_found",
  "adapter_outdated",
  "overloaded",
  "rate_limited",
  "quota_exceeded",
  "generation_failed",
  "numerics_mismatch",
  "backend_unavailable",
  "deadline_exceeded",
];
const unavailable: ErrorKind[] = ["backend_unavailable"];
const file = (media: string, description: string) => ({ media, description });

export const operations: Operation[] = [
  {
    ...{ method: "post", path: "/v1/completions", id: "createCompletion", tag: "Generate", scope: "completions" },
    summary: "Go on with a text",
    description:
      "Choices are prompt-major: those of prompt p are p·n to p·n + n − 1. Prompt and `max_tokens` together over the context end in `finish_reason: length`. " +
      answers,
    request: {
      schema: "CompletionRequest",
      example: {
        model: "gpt2:auto",
        prompt: "If Tom has 5 apples and buys 3 more, how many",
        max_tokens: 24,
        temperature: 0,
      },
    },
    ...{ response: "Completion", events: "Completion", errors: generates },
  },
  {
    ...{
      method: "post",
      path: "/v1/chat/completions",
      id: "createChatCompletion",
      tag: "Generate",
      scope: "completions",
    },
    summary: "Answer a conversation",
    description:
      "Messages go through the model's chat template; a model without one is spoken to in Alpaca's style. No text of a message becomes a special token. Centroid and evidence are of what is said, not of the template's own words. " +
      answers,
    request: {
      schema: "ChatCompletionRequest",
      example: {
        model: "gpt2:auto",
        messages: [{ role: "user", content: "What is an adapter?" }],
        max_completion_tokens: 48,
        temperature: 0,
      },
    },
    ...{ response: "ChatCompletion", events: "ChatCompletionChunk", errors: generates },
  },
  {
    ...{ method: "post", path: "/v1/embeddings", id: "createEmbeddings", tag: "Embed and assign", scope: "embeddings" },
    summary: "The vector that centroids are found by",
    description: "Of the whole of each text, computed at the edge: no backend is asked.",
    request: { schema: "EmbeddingsRequest", example: { input: ["A man in possession of a good fortune"] } },
    response: "Embeddings",
    errors: ["context_length_exceeded", "model_not_found", "rate_limited", "quota_exceeded", ...unavailable],
  },
  {
    ...{ method: "post", path: "/v1/assign", id: "assign", tag: "Embed and assign", scope: null },
    summary: "Where texts would go and what would answer them, without generating",
    request: { schema: "AssignRequest", example: { input: "It is a truth universally acknowledged", top: 3 } },
    response: "Assignments",
    errors: ["model_not_found", "adapter_outdated", "rate_limited", "quota_exceeded", ...unavailable],
  },
  {
    ...{ method: "get", path: "/v1/models", id: "listModels", tag: "Models and adapters", scope: null },
    summary: "The base, the mixture that each prompt decides, one model for each centroid, your own",
    description: "Naming a centroid or an adapter of your own forces it, at full strength.",
    ...{ response: "ModelList", errors: unavailable },
  },
  {
    ...{ method: "get", path: "/v1/models/{id}", id: "getModel", tag: "Models and adapters", scope: null },
    summary: "One of them",
    parameter: { name: "id", description: "`gpt2`, `gpt2:auto`, `gpt2:<centroid>` or `gpt2:<your adapter>`" },
    ...{ response: "Model", errors: ["model_not_found", "adapter_outdated", ...unavailable] },
  },
  {
    ...{ method: "get", path: "/v1/centroids", id: "listCentroids", tag: "Models and adapters", scope: null },
    summary: "What each centroid stands for, and what its adapter was measured to gain",
    ...{ response: "CentroidList", errors: unavailable },
  },
  {
    ...{ method: "get", path: "/v1/adapters", id: "listAdapters", tag: "Models and adapters", scope: "adapters" },
    summary: "Your own adapters",
    ...{ response: "AdapterList", errors: unavailable },
  },
  {
    ...{ method: "post", path: "/v1/adapters", id: "createAdapter", tag: "Models and adapters", scope: "adapters" },
    summary: "An adapter of example texts, in seconds, with what it was measured to gain",
    description: "No other tenant can tell that it exists. Without a gain nothing of it is kept: it is the base.",
    request: {
      schema: "CreateAdapterRequest",
      example: { name: "recipes", examples: ["Whisk the eggs with the sugar.", "Fold in the flour, then bake it."] },
    },
    ...{ status: 201, response: "Adapter" },
    errors: [
      "adapter_quota_exceeded",
      "overloaded",
      "rate_limited",
      "quota_exceeded",
      ...unavailable,
      "deadline_exceeded",
    ],
  },
  {
    ...{ method: "get", path: "/v1/adapters/{name}", id: "getAdapter", tag: "Models and adapters", scope: "adapters" },
    summary: "One of them",
    parameter: { name: "name", description: "As it was made" },
    ...{ response: "Adapter", errors: ["adapter_not_found", ...unavailable] },
  },
  {
    ...{
      method: "delete",
      path: "/v1/adapters/{name}",
      id: "deleteAdapter",
      tag: "Models and adapters",
      scope: "adapters",
    },
    summary: "Forget one",
    parameter: { name: "name", description: "As it was made" },
    ...{ response: "AdapterDeleted", errors: ["adapter_not_found"] },
  },
  {
    ...{ method: "get", path: "/v1/usage", id: "usage", tag: "Tenant", scope: "usage", query: usageQuerySchema },
    summary: "What the tenant has used, by day, model and centroid, and its limits",
    ...{ response: "UsageReport", errors: ["invalid_request"] },
  },
  {
    ...{ method: "delete", path: "/v1/tenant", id: "eraseTenant", tag: "Tenant", scope: "erase" },
    summary: "Erase the tenant's use and own adapters, at the backends too",
    description:
      "`npm run keys -- delete TENANT` calls it with a key that it makes for this, then deletes the tenant's keys.",
    response: "TenantErased",
  },
  {
    ...{ method: "get", path: "/healthz", id: "healthz", tag: "Service", summary: "The edge runs" },
    response: "Health",
  },
  {
    ...{ method: "get", path: "/readyz", id: "readyz", tag: "Service" },
    summary: "A token was generated, by a backend with the same manifest",
    ...{ response: "Ready", errors: unavailable },
  },
  {
    ...{ method: "get", path: "/", id: "playground", tag: "Pages", summary: "The playground" },
    response: file("text/html", "The page"),
  },
  {
    ...{ method: "get", path: "/docs", id: "docs", tag: "Pages", summary: "The documents" },
    response: file("text/html", "The first page; a redirect to `/docs/api` where they were not built"),
  },
  {
    ...{ method: "get", path: "/docs/api", id: "apiDocs", tag: "Pages", summary: "This document, to read and to try" },
    response: file("text/html", "The page"),
  },
  {
    ...{
      method: "get",
      path: "/docs/{file}",
      id: "docsFile",
      tag: "Pages",
      summary: "A page or file of the documents",
    },
    parameter: { name: "file", description: "Its path below `/docs/`" },
    response: file("*/*", "The file"),
  },
  {
    ...{ method: "get", path: "/openapi.json", id: "openapi", tag: "Pages", summary: "This document" },
    response: file("application/json", "OpenAPI 3.1"),
  },
];
