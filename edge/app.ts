/**
 * The public API as a Hono app. Knows no binding and no environment: what it needs from outside comes as Dependencies.
 */
import { type Handler, Hono } from "hono";
import { ServiceError } from "../shared/errors.ts";
import type { AppEnvironment, Dependencies } from "./dependencies.ts";
import { admission, rateLimitHeaders } from "./middleware/admission.ts";
import { auth } from "./middleware/auth.ts";
import { allowedOrigin, preflight } from "./middleware/cors.ts";
import { errorResponse } from "./middleware/errors.ts";
import { headLimits } from "./middleware/head-limits.ts";
import { requestId, totalTiming } from "./middleware/response-headers.ts";
import { securityHeaders } from "./middleware/security-headers.ts";
import { requestTrace } from "./middleware/trace.ts";
import { createAdapter, deleteAdapter, getAdapter, listAdapters } from "./routes/adapters.ts";
import { assignTexts } from "./routes/assign.ts";
import { listCentroids } from "./routes/centroids.ts";
import { chatCompletions } from "./routes/chat.ts";
import { completions } from "./routes/completions.ts";
import { apiDocs, docs, docsFile, openApi } from "./routes/docs.ts";
import { embeddings } from "./routes/embeddings.ts";
import { healthz, readyz } from "./routes/health.ts";
import { getModel, listModels } from "./routes/models.ts";
import { page } from "./routes/page.ts";
import { usage } from "./routes/usage.ts";

export function createApp(dependencies: Dependencies): Hono<AppEnvironment> {
  const app = new Hono<AppEnvironment>();
  app.use(
    requestTrace({ ...dependencies, ...dependencies.tracing }),
    requestId(dependencies.newId),
    totalTiming(dependencies.now),
    securityHeaders(),
    headLimits(),
  );
  app.use("/v1/*", preflight(), auth(dependencies.keys), allowedOrigin(), rateLimitHeaders(), admission(dependencies));

  type Method = "GET" | "POST" | "DELETE";
  const routes = (path: string, handlers: Partial<Record<Method, Handler<AppEnvironment>>>) => {
    for (const [method, handler] of Object.entries(handlers)) app.on(method, path, handler);
    const allowed = Object.keys(handlers)
      .map((method) => (method === "GET" ? "GET, HEAD" : method))
      .join(", ");
    app.all(path, (c) => {
      const error = new ServiceError("method_not_allowed", `${c.req.path} takes ${allowed}, not ${c.req.method}.`);
      const response = errorResponse(c, error, dependencies.log);
      response.headers.set("allow", allowed);
      return response;
    });
  };
  routes("/v1/completions", { POST: completions(dependencies) });
  routes("/v1/chat/completions", { POST: chatCompletions(dependencies) });
  routes("/v1/embeddings", { POST: embeddings(dependencies) });
  routes("/v1/models", { GET: listModels(dependencies) });
  routes("/v1/models/:id", { GET: getModel(dependencies) });
  routes("/v1/assign", { POST: assignTexts(dependencies) });
  routes("/v1/centroids", { GET: listCentroids(dependencies) });
  routes("/v1/usage", { GET: usage(dependencies) });
  routes("/v1/adapters", { GET: listAdapters(dependencies), POST: createAdapter(dependencies) });
  routes("/v1/adapters/:name", { GET: getAdapter(dependencies), DELETE: deleteAdapter(dependencies) });
  routes("/healthz", { GET: healthz(dependencies) });
  routes("/readyz", { GET: readyz(dependencies) });
  routes("/", { GET: page(dependencies) });
  routes("/docs", { GET: docs(dependencies) });
  routes("/docs/api", { GET: apiDocs(dependencies) });
  routes("/docs/:file{.*}", { GET: docsFile(dependencies) });
  routes("/openapi.json", { GET: openApi(dependencies) });

  app.notFound((c) => {
    const error = new ServiceError("not_found", `There is no ${c.req.path.slice(0, 200)}.`);
    return errorResponse(c, error, dependencies.log);
  });
  app.onError((thrown, c) => errorResponse(c, thrown, dependencies.log));
  return app;
}
