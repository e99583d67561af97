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
  const route = (method: Method, path: string, handler: Handler<AppEnvironment>) => routes(path, { [method]: handler });
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
  route("POST", "/v1/completions", completions(dependencies));
  route("POST", "/v1/chat/completions", chatCompletions(dependencies));
  route("POST", "/v1/embeddings", embeddings(dependencies));
  route("GET", "/v1/models", listModels(dependencies));
  route("GET", "/v1/models/:id", getModel(dependencies));
  route("POST", "/v1/assign", assignTexts(dependencies));
  route("GET", "/v1/centroids", listCentroids(dependencies));
  route("GET", "/v1/usage", usage(dependencies));
  routes("/v1/adapters", { GET: listAdapters(dependencies), POST: createAdapter(dependencies) });
  routes("/v1/adapters/:name", { GET: getAdapter(dependencies), DELETE: deleteAdapter(dependencies) });
  route("GET", "/healthz", healthz(dependencies));
  route("GET", "/readyz", readyz(dependencies));
  route("GET", "/", page(dependencies));
  route("GET", "/docs", docs(dependencies));
  route("GET", "/docs/api", apiDocs(dependencies));
  route("GET", "/docs/:file{.*}", docsFile(dependencies));
  route("GET", "/openapi.json", openApi(dependencies));

  app.notFound((c) => {
    const error = new ServiceError("not_found", `There is no ${c.req.path.slice(0, 200)}.`);
    return errorResponse(c, error, dependencies.log);
  });
  app.onError((thrown, c) => errorResponse(c, thrown, dependencies.log));
  return app;
}
