import { limits as requestLimits } from "../../shared/contracts/limits.ts";
import { usageQuerySchema } from "../../shared/contracts/openai.ts";
import type { UsageReport } from "../../shared/contracts/responses.ts";
import { invalidRequest } from "../../shared/errors.ts";
import { answerList } from "./answer.ts";
import { checked } from "./body.ts";
import type { RouteHandler } from "./dependencies.ts";

const dayMs = 86_400_000;
/** Approximate bytes of RAM for the use of one day, model and centroid. */
const rowBytes = 256;

export const usage: RouteHandler = async (c, dependencies) => {
  const query = checked(usageQuerySchema, c.req.query());
  const today = new Date(dependencies.now()).toISOString().slice(0, 10);
  const to = query.to ?? today;
  const from = query.from ?? `${to.slice(0, 7)}-01`;
  const days = (Date.parse(to) - Date.parse(from)) / dayMs + 1;
  if (days < 1 || days > requestLimits.usageDays) {
    throw invalidRequest(`from ${from} to ${to} is ${days} days; it must be 1 to ${requestLimits.usageDays}`, "from");
  }
  const { tenant, limits } = c.get("access");
  const rows = await dependencies.usage(tenant, from, to);
  if (rows.length > requestLimits.usageRows) {
    const message = `from ${from} to ${to} has more than ${requestLimits.usageRows} rows, the maximum; ask for fewer days`;
    throw invalidRequest(message, "from");
  }
  const sum = (value: (row: (typeof rows)[number]) => number) => rows.reduce((total, row) => total + value(row), 0);
  const [prompt, completion] = [sum((row) => row.promptTokens), sum((row) => row.completionTokens)];
  const total = {
    requests: sum((row) => row.requests),
    ...{ prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion },
  };
  const others = {
    ...{ tenant, from, to, total },
    limits: {
      requests_per_minute: limits.requestsPerMinute,
      tokens_per_minute: limits.tokensPerMinute,
      concurrent_requests: limits.concurrentRequests,
      tokens_per_month: limits.tokensPerMonth,
    },
  };
  const data = rows.values().map(({ day, model, centroid, requests, promptTokens, completionTokens }) => {
    return { day, model, centroid, requests, prompt_tokens: promptTokens, completion_tokens: completionTokens };
  });
  return answerList<UsageReport>(c, dependencies, data, { others, retainedBytes: rows.length * rowBytes });
};
