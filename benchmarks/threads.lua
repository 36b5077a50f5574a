-- For wrk: every request on a connection of its own, so that it comes to any process; the answers must be 200.

local threads = {}

function setup(thread)
   table.insert(threads, thread)
end

function init()
   failed = 0
   wrk.headers["Connection"] = "close"
end

function response(status)
   if status ~= 200 then
      failed = failed + 1
   end
end

function done(summary, latency)
   local failures = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
   for _, thread in ipairs(threads) do
      failures = failures + thread:get("failed")
   end
   print(string.format(
      '\nJSON {"answered": %d, "failed": %d, "seconds": %f, "p50": %f, "p99": %f}',
      summary.requests, failures, summary.duration / 1e6, latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
