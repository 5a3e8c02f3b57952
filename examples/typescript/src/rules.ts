/**
 * Rules of the house: boosts, buries or pins items in the lists of all users, and lists the rules.
 *
 *   npm run rules -- localhost:9001 boost summer 0.7 genres=Comedy
 *   npm run rules -- localhost:9001 pin new 2 318 296
 *   npm run rules -- localhost:9001 remove summer new
 */
import { credentials } from "@grpc/grpc-js";

import { call, report } from "./call.js";
import {
  InterestServiceClient,
  ListRulesRequest,
  RemoveRulesRequest,
  SetRulesRequest,
  type ListRulesResponse,
  type RemoveRulesResponse,
  type SetRulesResponse,
} from "./generated/ebbtide/v1/interest.js";

type Kind = "boost" | "bury" | "pin";

/** The rule that an argument list says: its name, its value, and item ids or attribute values such as genres=Comedy. */
function setRequest(kind: Kind, [name = "", value = "", ...about]: string[]): SetRulesRequest {
  const attributes = about.filter((one) => one.includes("=")).map((one) => {
    const [column = "", ...rest] = one.split("=");
    return { column, values: [rest.join("=")] };
  });
  const itemIds = about.filter((one) => !one.includes("="));
  return SetRulesRequest.fromPartial({
    rules: [{ name, effect: { $case: kind, value: Number(value) }, itemIds, attributes }],
  });
}

async function main(address: string, what: string, rest: string[]): Promise<number> {
  const client = new InterestServiceClient(address, credentials.createInsecure());
  try {
    if (what === "remove") {
      await call<RemoveRulesRequest, RemoveRulesResponse>(
        client.removeRules.bind(client),
        RemoveRulesRequest.fromPartial({ names: rest }),
      );
    } else if (what === "boost" || what === "bury" || what === "pin") {
      // A rule of the same name is replaced: sent twice, it is there once.
      await call<SetRulesRequest, SetRulesResponse>(client.setRules.bind(client), setRequest(what, rest));
    } else if (what !== "list") {
      console.error(`got '${what}'; expected boost, bury, pin, remove or list`);
      return 2;
    }
    const listed = await call<ListRulesRequest, ListRulesResponse>(
      client.listRules.bind(client),
      ListRulesRequest.fromPartial({}),
    );
    const rules = listed.rules.map(({ name, effect }) => ({ name, kind: effect?.$case, value: effect?.value }));
    console.log(JSON.stringify({ rules }));
    return 0;
  } catch (error) {
    report(error);
    return 1;
  } finally {
    client.close();
  }
}

const [address = "localhost:9001", what = "list", ...rest] = process.argv.slice(2);
process.exitCode = await main(address, what, rest);
