;; A component for the tests. It looks for a '!' in the event and does what the letter behind it says: 'l' for ever, 'm' takes all
;; memory, 't' traps, 'f' fails, 'p' publishes an event; anything else it says in the log.
(component
  (import "log" (func $log (param "message" string)))
  (import "publish" (func $publish (param "event-key" string) (param "payload" string)
    (result (result string (error string)))))

  (core module $Memory
    (memory (export "memory") 2)
    (global $next (mut i32) (i32.const 4096))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
      (global.set $next (i32.add (local.get $at) (local.get 3)))
      (if (i32.gt_u (global.get $next) (i32.mul (memory.size) (i32.const 65536)))
        (then (drop (memory.grow
          (i32.add (i32.div_u (local.get 3) (i32.const 65536)) (i32.const 1))))))
      (local.get $at)))
  (core instance $memory (instantiate $Memory))
  (core func $say (canon lower (func $log) (memory (core memory $memory "memory"))))
  (core func $cause (canon lower (func $publish)
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))

  (core module $Main
    (import "host" "memory" (memory 1))
    (import "host" "log" (func $log (param i32 i32)))
    (import "host" "publish" (func $publish (param i32 i32 i32 i32 i32)))
    (data (i32.const 0) "mis.behave.later")
    (data (i32.const 32) "mis.behave.now")
    (data (i32.const 64) "it was asked to fail")
    (data (i32.const 96) "mis.behave.caused")
    (data (i32.const 116) "{\22n\22:1}")
    ;; A list of two (address, length, bool), and its address and length.
    (data (i32.const 128) "\00\00\00\00\10\00\00\00\01\00\00\00" "\20\00\00\00\0e\00\00\00\00\00\00\00")
    (data (i32.const 160) "\80\00\00\00\02\00\00\00")
    ;; Results: good, and an error of 20 bytes.
    (data (i32.const 192) "\00\00\00\00\00\00\00\00\00\00\00\00")
    (data (i32.const 208) "\01\00\00\00\40\00\00\00\14\00\00\00")

    (func (export "handles") (result i32) (i32.const 160))

    (func $deed (param $at i32) (param $length i32) (result i32)
      (local $end i32)
      (local.set $end (i32.add (local.get $at) (local.get $length)))
      (loop $next
        (if (i32.lt_u (local.get $at) (local.get $end))
          (then
            (if (i32.eq (i32.load8_u (local.get $at)) (i32.const 33))
              (then (return (i32.load8_u offset=1 (local.get $at)))))
            (local.set $at (i32.add (local.get $at) (i32.const 1)))
            (br $next))))
      (i32.const 0))

    (func (export "handle") (param $at i32) (param $length i32) (result i32)
      (local $deed i32)
      (local.set $deed (call $deed (local.get $at) (local.get $length)))
      (if (i32.eq (local.get $deed) (i32.const 108)) (then (loop $on (br $on))))
      (if (i32.eq (local.get $deed) (i32.const 109))
        (then (loop $on (drop (memory.grow (i32.const 16))) (br $on))))
      (if (i32.eq (local.get $deed) (i32.const 116)) (then (unreachable)))
      (if (i32.eq (local.get $deed) (i32.const 102)) (then (return (i32.const 208))))
      (if (i32.eq (local.get $deed) (i32.const 112))
        (then
          (call $publish (i32.const 96) (i32.const 17) (i32.const 116) (i32.const 7) (i32.const 224))
          ;; An error as it came; good, whatever the id is.
          (if (i32.load8_u (i32.const 224)) (then (return (i32.const 224))))
          (return (i32.const 192))))
      (call $log (local.get $at) (local.get $length))
      (i32.const 192)))
  (core instance $main (instantiate $Main
    (with "host" (instance
      (export "memory" (memory $memory "memory"))
      (export "log" (func $say))
      (export "publish" (func $cause))))))

  (func (export "handles") (result (list (tuple string bool)))
    (canon lift (core func $main "handles") (memory (core memory $memory "memory"))))
  (func (export "handle") (param "event" string) (result (result (error string)))
    (canon lift (core func $main "handle")
      (memory (core memory $memory "memory")) (realloc (core func $memory "realloc")))))
