-- For wrk: asks for a random key, and looks whether the answer is that key's rows and nobody else's.
-- One connection a thread, so that an answer belongs to the question before it.

local threads = {}

function setup(thread)
   thread:set("number", #threads)
   table.insert(threads, thread)
end

function init(arguments)
   items = tonumber(arguments[1])
   math.randomseed(os.time() * 1000 + number)
   right, others, failed, errors = 0, 0, 0, {}
   -- A connection each: so a request comes to any of the threads.
   wrk.headers["Connection"] = "close"
end

function request()
   key = math.random(0, items - 1)
   return wrk.format("GET", wrk.path .. "?" .. key)
end

function response(status, headers, body)
   if status == 200 and body == "book " .. key .. "\nprice " .. key then
      right = right + 1
   elseif status == 200 then
      others = others + 1
   else
      failed = failed + 1
      local kind = string.sub(string.gsub(body, "%d+", "N"), 1, 60)
      errors[kind] = (errors[kind] or 0) + 1
   end
end

local function text(value)
   return '"' .. string.gsub(value, '[%c"\\]', " ") .. '"'
end

function done(summary, latency)
   local counts, kinds = { right = 0, others = 0, failed = 0 }, {}
   for _, thread in ipairs(threads) do
      for name in pairs(counts) do
         counts[name] = counts[name] + thread:get(name)
      end
      for kind, count in pairs(thread:get("errors")) do
         kinds[kind] = (kinds[kind] or 0) + count
      end
   end
   local listed = {}
   for kind, count in pairs(kinds) do
      table.insert(listed, text(kind) .. ": " .. count)
   end
   print(string.format(
      '\nJSON {"right": %d, "others": %d, "failed": %d, "timeouts": %d, "broken": %d, "seconds": %f, "p99": %f, "errors": {%s}}',
      counts.right, counts.others, counts.failed, summary.errors.timeout,
      summary.errors.connect + summary.errors.read + summary.errors.write,
      summary.duration / 1e6, latency:percentile(99) / 1000, table.concat(listed, ", ")))
end
