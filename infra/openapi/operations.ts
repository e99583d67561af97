/** The operations of the API document. A test compares them with the app's routes. */
import type * as z from "zod";
import * as admin from "../../shared/contracts/admin.ts";
import * as chat from "../../shared/contracts/chat.ts";
import * as classify from "../../shared/contracts/classify.ts";
import * as classified from "../../shared/contracts/classify-response.ts";
import * as tuning from "../../shared/contracts/fine-tuning.ts";
import { heartbeatMs } from "../../shared/contracts/inference.ts";
import { limits } from "../../shared/contracts/limits.ts";
import * as requests from "../../shared/contracts/openai.ts";
import * as response from "../../shared/contracts/response-object.ts";
import * as responseRequest from "../../shared/contracts/response-request.ts";
import * as responses from "../../shared/contracts/responses.ts";
import type { Scope } from "../../shared/contracts/tenants.ts";
import type { ErrorKind } from "../../shared/errors.ts";

/** Exports whose names end in `Schema` are the document's schemas. */
export const contracts = {
  ...{ ...admin, ...chat, ...classify, ...classified, ...tuning },
  ...{ ...requests, ...response, ...responseRequest, ...responses },
};
/** Name of a schema in the document, such as `FileList` for the export `fileListSchema`. */
export type SchemaName = keyof {
  [Name in keyof typeof contracts as Name extends `${infer Of}Schema` ? Capitalize<Of> : never]: unknown;
};

export interface Operation {
  method: "get" | "post" | "put" | "delete";
  path: string;
  id: string;
  tag: string;
  summary: string;
  description?: string;
  /** Scope that the key needs; null: any key will do; "admin": the admin key; absent: no key. */
  scope?: Scope | "admin" | null;
  query?: z.ZodObject;
  parameters?: { name: string; description: string }[];
  /** `files`: media types that the body or a form may hold. `isForm`: the body must be a form. */
  request?: { schema: SchemaName; example: object; files?: readonly string[]; isForm?: true };
  status?: 200 | 201;
  /** Whether the operation may also answer 202, with the same schema. */
  mayBeLater?: boolean;
  response: SchemaName | { media: string; description: string };
  events?: SchemaName;
  /** Errors that document.ts does not add by itself. */
  errors?: ErrorKind[];
}

const answers = `Without \`stream\`, an answer that takes more than ${heartbeatMs / 1000} s after its first token begins with status 200 and spaces, followed by its JSON; if it fails after that, the connection is closed. A stream with more than ${limits.unreadBytes / 1024} KiB unread ends in an error event.`;

const generates: ErrorKind[] = [
  "context_length_exceeded",
  "model_not_found",
  "adapter_outdated",
  "memory_deleted",
  "overloaded",
  "rate_limited",
  "quota_exceeded",
  "generation_failed",
  "numerics_mismatch",
  "backend_unavailable",
  "deadline_exceeded",
];
const unavailable: ErrorKind[] = ["backend_unavailable"];
const models = "Models and adapters";
const tuningTag = "Fine-tuning";
const adapterName = { name: "name", description: "As it was made" };
const documentFiles = ["text/markdown", "text/plain", "text/html", "application/jsonl"];
const uploads = `Up to ${limits.memoryTokensAtOnce} tokens of documents are answered when they are ready, more with 202: then \`memory.status\` tells how the job stands, and DELETE ends it. Documents come in JSON, as files of a form (\`multipart/form-data\`, fields \`documents\`), or one file as the body (\`?document=\` names it), where each line of JSONL is a document. PDF is not read: \`pdftotext\` converts it. Tokens of documents are charged once.`;
const memoryErrors = ["adapter_quota_exceeded", "overloaded", "rate_limited", "quota_exceeded"] as const;
const fileId = { name: "id", description: "`file-…`" };
const jobId = { name: "id", description: "`ftjob-…`" };
const ofJob: Rest = { parameters: [jobId], response: "Job", errors: ["invalid_request"] };
const keyId = { name: "id", description: "16 hex digits" };
const fileHash = { name: "sha256", description: "Of its bytes, 64 lower-case hex digits" };
const tenantName = { name: "tenant", description: "Its name" };
const file = (media: string, description: string) => ({ media, description });

/** Scope of all operations under a heading that name no scope. */
const scopes: Record<string, Scope | "admin"> = { Generate: "completions", [tuningTag]: "adapters", Admin: "admin" };

type Rest = Omit<Operation, "method" | "path" | "id" | "tag" | "summary">;
const of =
  (method: Operation["method"]) =>
  (path: string, id: string, tag: Operation["tag"], summary: string, rest: Rest): Operation => ({
    ...{ method, path, id, tag, summary },
    ...(tag in scopes && { scope: scopes[tag] }),
    ...rest,
  });
const [get, post, put, remove] = [of("get"), of("post"), of("put"), of("delete")];

export const operations: Operation[] = [
  post("/v1/completions", "createCompletion", "Generate", "Complete a text", {
    description:
      "Choices are prompt-major: those of prompt p are p·n to p·n + n − 1. Prompt and `max_tokens` together over the context end in `finish_reason: length`. " +
      answers,
    request: {
      schema: "CompletionRequest",
      example: {
        model: "smollm2-135m:auto",
        prompt: "If Tom has 5 apples and buys 3 more, how many",
        max_tokens: 24,
        temperature: 0,
      },
    },
    ...{ response: "CompletionResponse", events: "CompletionResponse", errors: generates },
  }),
  post("/v1/chat/completions", "createChatCompletion", "Generate", "Answer a conversation", {
    description:
      "Messages go through the model's chat template; a model without one gets Alpaca's style. No text of a message becomes a special token. Centroid and evidence are of the messages' text, not of the template's own words. " +
      answers,
    request: {
      schema: "ChatRequest",
      example: {
        model: "smollm2-135m:auto",
        messages: [{ role: "user", content: "What is an adapter?" }],
        max_completion_tokens: 48,
        temperature: 0,
      },
    },
    ...{ response: "ChatResponse", events: "ChatChunk", errors: generates },
  }),
  post("/v1/responses", "createResponse", "Generate", "Answer a conversation, in OpenAI's newer shape", {
    description:
      "The stateless part of OpenAI's Responses API: a chat completion whose answer is a list of items, and whose stream is of typed events. Nothing is stored. The fields of sampling that a chat completion takes are taken, too. " +
      answers,
    request: {
      schema: "ResponseRequest",
      example: {
        ...{ model: "smollm2-135m:auto", instructions: "You are brief.", input: "What is an adapter?" },
        ...{ max_output_tokens: 48, temperature: 0 },
      },
    },
    ...{ response: "Response", events: "ResponseEvent", errors: generates },
  }),
  post("/v1/classify", "classify", "Generate", "Which of some labels fits a text", {
    description:
      "By one pass over each prompt: where labels part, the model chooses among their tokens alone, so that the probabilities add up to 1. Labels that begin alike take a further row for each place where they part.",
    request: {
      schema: "ClassifyRequest",
      example: { input: "The parcel came broken and I want my money back", labels: ["refund", "shipping", "praise"] },
    },
    ...{ response: "ClassifyResponse", errors: generates },
  }),
  post("/v1/embeddings", "createEmbeddings", "Embed and assign", "The vector that centroids are found by", {
    scope: "embeddings",
    description: "Of the whole of each text, computed at the edge: no backend is called.",
    request: { schema: "EmbeddingsRequest", example: { input: ["A man in possession of a good fortune"] } },
    response: "EmbeddingsResponse",
    errors: ["context_length_exceeded", "model_not_found", "rate_limited", "quota_exceeded", ...unavailable],
  }),
  post("/v1/assign", "assign", "Embed and assign", "Assign texts and name what would answer, without generating", {
    scope: null,
    request: { schema: "AssignRequest", example: { input: "It is a truth universally acknowledged", top: 3 } },
    response: "AssignResponse",
    errors: ["model_not_found", "adapter_outdated", "rate_limited", "quota_exceeded", ...unavailable],
  }),
  get("/v1/models", "listModels", models, "The base, the mixture, one model for each centroid, and your own", {
    scope: null,
    description:
      "Naming a centroid, or an adapter of your own that has examples alone, forces it at full strength. One with documents joins `auto`'s mixture.",
    ...{ response: "ModelList", errors: unavailable },
  }),
  get("/v1/models/{id}", "getModel", models, "One model", {
    scope: null,
    parameters: [
      {
        name: "id",
        description: "`smollm2-135m`, `smollm2-135m:auto`, `smollm2-135m:<centroid>` or `smollm2-135m:<your adapter>`",
      },
    ],
    ...{ response: "Model", errors: ["model_not_found", "adapter_outdated", ...unavailable] },
  }),
  remove("/v1/models/{id}", "deleteModel", models, "Delete one of your own adapters by the name of its model", {
    description: "Needs a key with the scope `adapters`.",
    ...{ scope: null, parameters: [{ name: "id", description: "`smollm2-135m:<your adapter>`" }] },
    ...{ response: "ModelDeleted", errors: ["model_not_found", ...unavailable] },
  }),
  get("/v1/centroids", "listCentroids", models, "Each centroid, and the measured gain of its adapter", {
    ...{ scope: null, response: "CentroidList", errors: unavailable },
  }),
  get("/v1/adapters", "listAdapters", models, "Your own adapters", {
    ...{ scope: "adapters", response: "AdapterList", errors: unavailable },
  }),
  post("/v1/adapters", "createAdapter", models, "Create an adapter from documents, from example texts, or both", {
    scope: "adapters",
    description: `No other tenant can tell that it exists. Documents become a memory, whose words answers take up where the prompt is like them. Examples teach a task, and the gain on those that are held out is measured; without a gain nothing is kept. ${uploads} A body that is a file needs \`?name=\`.`,
    request: {
      schema: "CreateAdapterRequest",
      example: { name: "recipes", documents: [{ name: "cake.md", text: "Whisk the eggs with the sugar." }] },
      files: documentFiles,
    },
    ...{ status: 201, mayBeLater: true, response: "Adapter" },
    errors: [...memoryErrors, ...unavailable, "deadline_exceeded"],
  }),
  post("/v1/adapters/{name}/documents", "addDocuments", models, "Add documents to one of your own adapters", {
    ...{ scope: "adapters", parameters: [adapterName], response: "Adapter", mayBeLater: true },
    description: `Answers that have begun keep the documents that they began with. ${uploads}`,
    request: {
      schema: "AddDocumentsRequest",
      example: { documents: ["Fold in the flour."] },
      files: documentFiles,
    },
    errors: ["adapter_not_found", "adapter_outdated", ...memoryErrors, ...unavailable],
  }),
  remove("/v1/adapters/{name}/documents/{document}", "deleteDocument", models, "Delete one document of an adapter", {
    ...{ scope: "adapters", response: "Adapter", mayBeLater: true },
    parameters: [adapterName, { name: "document", description: "Its name" }],
    errors: ["adapter_not_found", "adapter_outdated", "invalid_request", ...unavailable],
  }),
  get("/v1/adapters/{name}", "getAdapter", models, "One of your own adapters", {
    ...{ scope: "adapters", parameters: [adapterName], response: "Adapter" },
    errors: ["adapter_not_found", ...unavailable],
  }),
  remove("/v1/adapters/{name}", "deleteAdapter", models, "Delete one of your own adapters", {
    description: "Answers that read its documents end in the error `memory_deleted`.",
    ...{ scope: "adapters", parameters: [adapterName], response: "AdapterDeleted", errors: ["adapter_not_found"] },
  }),
  get("/v1/files", "listFiles", tuningTag, "Your files", {
    ...{ query: tuning.fileListQuerySchema, response: "FileList", errors: ["invalid_request"] },
  }),
  post("/v1/files", "createFile", tuningTag, "Upload a file of examples", {
    description: "Each line is checked; an error names the first that is wrong. No other purpose is supported.",
    request: { schema: "CreateFileForm", example: { purpose: "fine-tune", file: "…" }, isForm: true },
    ...{ response: "File", errors: ["adapter_quota_exceeded", "rate_limited"] },
  }),
  get("/v1/files/{id}", "getFile", tuningTag, "One of your files", { parameters: [fileId], response: "File" }),
  get("/v1/files/{id}/content", "getFileContent", tuningTag, "The bytes of a file", {
    ...{ parameters: [fileId], errors: ["overloaded", "rate_limited"] },
    response: file("application/octet-stream", "As it was uploaded"),
  }),
  remove("/v1/files/{id}", "deleteFile", tuningTag, "Delete a file", {
    description: "Jobs that were made of it go on, and their adapters stay.",
    ...{ parameters: [fileId], response: "FileDeleted" },
  }),
  get("/v1/fine_tuning/jobs", "listFineTuningJobs", tuningTag, "Your jobs, the latest first", {
    ...{ query: tuning.pageQuerySchema, response: "JobList", errors: ["invalid_request"] },
  }),
  post("/v1/fine_tuning/jobs", "createFineTuningJob", tuningTag, "Make an adapter of a file's examples", {
    description:
      "A job runs in the background, in turn with the tenant's others, and survives restarts of edge and backends. It is charged the tokens of its examples once, when it succeeds, or is cancelled after it has begun. Where the gain's interval on held-out examples reaches zero, its model is the base, and an event says so.",
    request: {
      schema: "CreateJobRequest",
      example: { model: "smollm2-135m", training_file: "file-0123456789abcdef0123456789abcdef", suffix: "topics" },
    },
    response: "Job",
    errors: ["model_not_found", "adapter_quota_exceeded", "rate_limited", "quota_exceeded", ...unavailable],
  }),
  get("/v1/fine_tuning/jobs/{id}", "getFineTuningJob", tuningTag, "One of your jobs", {
    ...{ parameters: [jobId], response: "Job" },
  }),
  post("/v1/fine_tuning/jobs/{id}/cancel", "cancelFineTuningJob", tuningTag, "End a job", ofJob),
  post("/v1/fine_tuning/jobs/{id}/pause", "pauseFineTuningJob", tuningTag, "Not supported: a job takes seconds", ofJob),
  post("/v1/fine_tuning/jobs/{id}/resume", "resumeFineTuningJob", tuningTag, "Not supported, as pausing is not", ofJob),
  get("/v1/fine_tuning/jobs/{id}/events", "listFineTuningEvents", tuningTag, "What a job did, the latest first", {
    ...{ parameters: [jobId], query: tuning.pageQuerySchema },
    ...{ response: "JobEventList", errors: ["invalid_request"] },
  }),
  get("/v1/fine_tuning/jobs/{id}/checkpoints", "listFineTuningCheckpoints", tuningTag, "Always empty", {
    ...{ parameters: [jobId], response: "CheckpointList" },
  }),
  get("/v1/usage", "usage", "Tenant", "The tenant's use by day, model and centroid, and its limits", {
    ...{ scope: "usage", query: requests.usageQuerySchema, response: "UsageReport", errors: ["invalid_request"] },
  }),
  get("/admin/v1/keys", "listKeys", "Admin", "Keys of a tenant, or of all", {
    ...{ query: admin.keyListQuerySchema, response: "KeyList", errors: ["invalid_request"] },
  }),
  post("/admin/v1/keys", "createKey", "Admin", "Make a key, which is shown this once", {
    request: { schema: "CreateKeyRequest", example: { tenant: "acme", scopes: ["completions"] } },
    response: "NewKey",
  }),
  remove("/admin/v1/keys/{id}", "revokeKey", "Admin", "Revoke a key", { parameters: [keyId], response: "Key" }),
  post("/admin/v1/keys/{id}/rotate", "rotateKey", "Admin", "Make a key like another, which ends", {
    ...{ parameters: [keyId], response: "NewKey" },
    request: { schema: "RotateKeyRequest", example: { old_expires_at: "2027-01-31T00:00:00Z" } },
  }),
  get("/admin/v1/tenants/{tenant}", "getTenant", "Admin", "A tenant's plan, limits, origins and aliases", {
    ...{ parameters: [tenantName], response: "TenantSettings", errors: ["invalid_request"] },
  }),
  post("/admin/v1/tenants/{tenant}", "changeTenant", "Admin", "Change what is named of them", {
    ...{ parameters: [tenantName], response: "TenantSettings" },
    request: {
      schema: "ChangeTenantRequest",
      example: { limits: { requests_per_minute: 100 }, aliases: { "gpt-4o-mini": "smollm2-135m:auto" } },
    },
  }),
  remove("/admin/v1/tenants/{tenant}", "eraseTenant", "Admin", "Erase a tenant, at the backends too", {
    ...{ parameters: [tenantName], mayBeLater: true, response: "TenantErasure" },
    description:
      "Revokes its keys, and answers 202 while they may still be in use. The same call after `retry_after` seconds erases use, limits, files, own adapters and the keys.",
    errors: ["invalid_request"],
  }),
  get("/admin/v1/artifacts", "listSwitches", "Admin", "What was served, and since when", {
    ...{ response: "SwitchList", errors: ["not_found"] },
  }),
  post("/admin/v1/artifacts", "switchArtifacts", "Admin", "Serve other artifacts, or those before again", {
    request: { schema: "SwitchRequest", example: { manifest: "previous" } },
    response: "SwitchReport",
    errors: ["not_found", "switch_conflict"],
  }),
  get("/admin/v1/artifacts/files/{sha256}", "getArtifactFile", "Admin", "Whether a file is stored, whole", {
    ...{ parameters: [fileHash], response: "ArtifactFile" },
  }),
  put("/admin/v1/artifacts/files/{sha256}", "uploadArtifactFile", "Admin", "Store a file, which is the body", {
    ...{ parameters: [fileHash], response: "ArtifactFile" },
    errors: ["invalid_request", "body_too_large"],
  }),
  get("/healthz", "healthz", "Service", "The edge runs", { response: "Health" }),
  get("/readyz", "readyz", "Service", "A token was generated, by a backend with the same manifest", {
    description:
      "A deployment with containers answers without asking backends; `?wake=true` asks, and so starts, all of them.",
    ...{ response: "Ready", errors: unavailable },
  }),
  get("/", "playground", "Pages", "The playground", { response: file("text/html", "The page") }),
  get("/docs", "docs", "Pages", "The documents", {
    response: file("text/html", "The first page; a redirect to `/docs/api` where they were not built"),
  }),
  get("/docs/api", "apiDocs", "Pages", "This document, to read and to try", {
    response: file("text/html", "The page"),
  }),
  get("/docs/{file}", "docsFile", "Pages", "A page or file of the documents", {
    parameters: [{ name: "file", description: "Its path below `/docs/`" }],
    response: file("*/*", "The file"),
  }),
  get("/openapi.json", "openapi", "Pages", "This document", { response: file("application/json", "OpenAPI 3.1") }),
];
