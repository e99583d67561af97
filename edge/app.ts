/** The public API as a Hono app: its routes, and the middleware before them. */
import { Hono } from "hono";
import { envelopeOf, ServiceError, statusOf, toServiceError } from "../shared/errors.ts";
import { adminAuth, admission, auth, preflight } from "./api/access.ts";
import { createAdapter, deleteAdapter, getAdapter, listAdapters } from "./api/adapters.ts";
import { getFile as getArtifactFile, listSwitches, switchArtifacts, uploadFile } from "./api/admin-artifacts.ts";
import * as tenants from "./api/admin-tenants.ts";
import { classify } from "./api/classify.ts";
import { chatCompletions, completions } from "./api/completions.ts";
import type { AppContext, AppEnvironment, Dependencies, Middleware, RouteHandler } from "./api/dependencies.ts";
import { apiDocs, docs, docsFile, openApi, page } from "./api/documents.ts";
import { assignTexts, embeddings } from "./api/embeddings.ts";
import { createFile, deleteFile, getFile, getFileContent, listFiles } from "./api/files.ts";
import { cancelJob, createJob, getJob, listCheckpoints, listJobEvents, listJobs, pauseJob } from "./api/fine-tuning.ts";
import { headLimits, responseHeaders } from "./api/headers.ts";
import { healthz, readyz } from "./api/health.ts";
import { addDocuments, deleteDocument } from "./api/memories.ts";
import { deleteModel, getModel, listCentroids, listModels } from "./api/models.ts";
import { responses } from "./api/responses.ts";
import { callersTrace, requestTrace } from "./api/trace.ts";
import { usage } from "./api/usage.ts";

export function createApp(dependencies: Dependencies): Hono<AppEnvironment> {
  const app = new Hono<AppEnvironment>();
  const use = (path: string, all: Middleware[]) => {
    for (const one of all) app.use(path, (c, next) => one(c, next, dependencies));
  };
  use("*", [requestTrace, responseHeaders, headLimits]);
  use("/v1/*", [preflight, auth, callersTrace, admission]);
  use("/admin/*", [adminAuth, callersTrace]);

  type Method = "GET" | "POST" | "PUT" | "DELETE";
  // Hono's RegExpRouter must accept every path. If it refuses one, all requests use the slower TrieRouter.
  const routes: Record<string, Partial<Record<Method, RouteHandler>>> = {
    "/v1/completions": { POST: completions },
    "/v1/chat/completions": { POST: chatCompletions },
    "/v1/responses": { POST: responses },
    "/v1/embeddings": { POST: embeddings },
    "/v1/classify": { POST: classify },
    "/v1/models": { GET: listModels },
    "/v1/models/:id": { GET: getModel, DELETE: deleteModel },
    "/v1/assign": { POST: assignTexts },
    "/v1/centroids": { GET: listCentroids },
    "/v1/usage": { GET: usage },
    "/v1/adapters": { GET: listAdapters, POST: createAdapter },
    "/v1/adapters/:name": { GET: getAdapter, DELETE: deleteAdapter },
    "/v1/adapters/:name/documents": { POST: addDocuments },
    "/v1/adapters/:name/documents/:document": { DELETE: deleteDocument },
    "/v1/files": { GET: listFiles, POST: createFile },
    "/v1/files/:id": { GET: getFile, DELETE: deleteFile },
    "/v1/files/:id/content": { GET: getFileContent },
    "/v1/fine_tuning/jobs": { GET: listJobs, POST: createJob },
    "/v1/fine_tuning/jobs/:id": { GET: getJob },
    "/v1/fine_tuning/jobs/:id/cancel": { POST: cancelJob },
    "/v1/fine_tuning/jobs/:id/pause": { POST: pauseJob },
    "/v1/fine_tuning/jobs/:id/resume": { POST: pauseJob },
    "/v1/fine_tuning/jobs/:id/events": { GET: listJobEvents },
    "/v1/fine_tuning/jobs/:id/checkpoints": { GET: listCheckpoints },
    "/admin/v1/keys": { GET: tenants.listKeys, POST: tenants.createKey },
    "/admin/v1/keys/:id": { DELETE: tenants.revokeKey },
    "/admin/v1/keys/:id/rotate": { POST: tenants.rotateKey },
    "/admin/v1/artifacts": { GET: listSwitches, POST: switchArtifacts },
    "/admin/v1/artifacts/files/:sha256": { GET: getArtifactFile, PUT: uploadFile },
    "/admin/v1/tenants/:tenant": { GET: tenants.getTenant, POST: tenants.changeTenant, DELETE: tenants.eraseTenant },
    "/healthz": { GET: healthz },
    "/readyz": { GET: readyz(dependencies) },
    "/": { GET: page },
    "/docs": { GET: docs },
    "/docs/api": { GET: apiDocs },
    "/docs/*": { GET: docsFile },
    "/openapi.json": { GET: openApi },
  };
  for (const [path, byMethod] of Object.entries(routes)) {
    for (const [method, route] of Object.entries(byMethod)) app.on(method, path, (c) => route(c, dependencies));
    const allow = Object.keys(byMethod).join(", ").replace("GET", "GET, HEAD");
    app.all(path, (c) => {
      const error = new ServiceError("method_not_allowed", `${c.req.path} takes ${allow}, not ${c.req.method}.`);
      return errorResponse(c, error, { allow });
    });
  }

  app.notFound((c) => errorResponse(c, new ServiceError("not_found", notFoundText(c.req.path, Object.keys(routes)))));
  app.onError((thrown, c) => {
    // Drops the replaced response, because Hono would add its headers to the error's.
    c.res = undefined;
    return errorResponse(c, thrown);
  });
  return app;

  function errorResponse(c: AppContext, thrown: unknown, more: Record<string, string> = {}): Response {
    const error = toServiceError(thrown);
    if (statusOf(error.kind) >= 500) dependencies.log(c.get("requestId"), error);
    const headers: Record<string, string> = { "content-type": "application/json; charset=utf-8", ...more };
    if (error.retryAfterSeconds !== null) headers["retry-after"] = String(error.retryAfterSeconds);
    return new Response(JSON.stringify(envelopeOf(error)), { status: statusOf(error.kind), headers });
  }
}

/** Suggests the path with one `/v1` and without a slash at the end, if that is a route. */
function notFoundText(path: string, routes: readonly string[]): string {
  const text = `There is no ${path.slice(0, 200)}.`;
  const meant = `/v1/${path.replace(/^\/(v1\/)*/, "").replace(/\/$/, "")}`;
  const pattern = (route: string) => new RegExp(`^${route.replaceAll(/:\w+/g, "[^/]+")}$`);
  if (meant === path || !routes.some((route) => route.startsWith("/v1/") && pattern(route).test(meant))) return text;
  return `${text} Did you mean ${meant.slice(0, 200)}? The base URL of OpenAI's clients ends in /v1, once.`;
}
