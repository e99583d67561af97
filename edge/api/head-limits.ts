/** Refuses over-long URLs and headers before anything is done for them. */
import { limits } from "../../shared/contracts/limits.ts";
import { ServiceError } from "../../shared/errors.ts";
import type { Middleware } from "./dependencies.ts";

export const headLimits: Middleware = async (c, next) => {
  const { url, headers } = c.req.raw;
  if (url.length > limits.urlCharacters) {
    const message = `The URL has ${url.length} characters, the maximum is ${limits.urlCharacters}.`;
    throw new ServiceError("url_too_long", message);
  }
  let characters = 0;
  headers.forEach((value, name) => {
    characters += name.length + value.length;
  });
  if (characters > limits.headerCharacters) {
    const message = `The headers have ${characters} characters together, the maximum is ${limits.headerCharacters}.`;
    throw new ServiceError("headers_too_large", message);
  }
  await next();
};
