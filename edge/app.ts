/**
 * The public API as a Hono app: its routes, and what runs around them. Knows no binding and no environment: what it needs
 * from outside comes as Dependencies.
 */
import { type Context, Hono, type MiddlewareHandler } from "hono";
import { envelopeOf, ServiceError, statusOf, toServiceError } from "../shared/errors.ts";
import { admission, auth, preflight } from "./api/access.ts";
import { createAdapter, deleteAdapter, getAdapter, listAdapters } from "./api/adapters.ts";
import { assignTexts } from "./api/assign.ts";
import { chatCompletions, completions } from "./api/completions.ts";
import type { AppEnvironment, Dependencies, Middleware, RouteHandler } from "./api/dependencies.ts";
import { apiDocs, docs, docsFile, openApi, page } from "./api/documents.ts";
import { embeddings } from "./api/embeddings.ts";
import { headLimits } from "./api/head-limits.ts";
import { healthz, readyz } from "./api/health.ts";
import { getModel, listCentroids, listModels } from "./api/models.ts";
import { responseHeaders } from "./api/response-headers.ts";
import { eraseTenant } from "./api/tenant.ts";
import { callersTrace, requestTrace } from "./api/trace.ts";
import { usage } from "./api/usage.ts";

export function createApp(dependencies: Dependencies): Hono<AppEnvironment> {
  const app = new Hono<AppEnvironment>();
  const use = (path: string, all: Middleware[]) =>
    app.use(
      path,
      ...all.map(
        (one): MiddlewareHandler<AppEnvironment> =>
          (c, next) =>
            one(c, next, dependencies),
      ),
    );
  use("*", [requestTrace, responseHeaders, headLimits]);
  use("/v1/*", [preflight, auth, callersTrace, admission]);

  type Method = "GET" | "POST" | "DELETE";
  // No path may have a pattern that Hono's RegExpRouter refuses: one such path makes every request take the slower TrieRouter.
  const routes: Record<string, Partial<Record<Method, RouteHandler>>> = {
    "/v1/completions": { POST: completions },
    "/v1/chat/completions": { POST: chatCompletions },
    "/v1/embeddings": { POST: embeddings },
    "/v1/models": { GET: listModels },
    "/v1/models/:id": { GET: getModel },
    "/v1/assign": { POST: assignTexts },
    "/v1/centroids": { GET: listCentroids },
    "/v1/usage": { GET: usage },
    "/v1/tenant": { DELETE: eraseTenant },
    "/v1/adapters": { GET: listAdapters, POST: createAdapter },
    "/v1/adapters/:name": { GET: getAdapter, DELETE: deleteAdapter },
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

  app.notFound((c) => errorResponse(c, new ServiceError("not_found", `There is no ${c.req.path.slice(0, 200)}.`)));
  app.onError((thrown, c) => {
    // Else Hono gives the headers of a response that the error replaces to the new one.
    c.res = undefined;
    return errorResponse(c, thrown);
  });
  return app;

  /** OpenAI's envelope of anything thrown, never a stack. */
  function errorResponse(c: Context<AppEnvironment>, thrown: unknown, more: Record<string, string> = {}): Response {
    const error = toServiceError(thrown);
    if (statusOf(error.kind) >= 500) dependencies.log(c.get("requestId"), error);
    const headers: Record<string, string> = { "content-type": "application/json; charset=utf-8", ...more };
    if (error.retryAfterSeconds !== null) headers["retry-after"] = String(error.retryAfterSeconds);
    return new Response(JSON.stringify(envelopeOf(error)), { status: statusOf(error.kind), headers });
  }
}
