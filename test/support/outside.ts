/** The environment of somebody who is not in our checkout: nothing that npm told the test run, none of our programs. */
import path from "node:path";

const ours = path.join(import.meta.dirname, "../../node_modules");

/** Without npm's variables, our configuration among them, and with the Node and npm of the machine. */
export function outsideEnvironment(): NodeJS.ProcessEnv {
  const others = Object.entries(process.env).filter(([name]) => !/^npm_|^NODE_ENV$/i.test(name));
  const folders = process.env.PATH!.split(path.delimiter).filter((folder) => !folder.startsWith(ours));
  return { ...Object.fromEntries(others), PATH: folders.join(path.delimiter) };
}
