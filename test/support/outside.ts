/** The environment of a user outside of our checkout. */
import path from "node:path";

const ours = path.join(import.meta.dirname, "../../node_modules");

/** Leaves out npm's variables, which hold our configuration, and our folders in PATH. */
export function outsideEnvironment(): NodeJS.ProcessEnv {
  const others = Object.entries(process.env).filter(([name]) => !/^npm_|^NODE_ENV$/i.test(name));
  const folders = process.env.PATH!.split(path.delimiter).filter((folder) => !folder.startsWith(ours));
  return { ...Object.fromEntries(others), PATH: folders.join(path.delimiter) };
}
