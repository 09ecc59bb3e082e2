module github.com/ticketgate/ticketgate/internal/testserver/bench

go 1.26

require (
	github.com/DeRuina/timberjack v1.4.9
	github.com/ticketgate/ticketgate v0.1.0
	gopkg.in/natefinch/lumberjack.v2 v2.2.1
)

require (
	github.com/coder/websocket v1.8.15
	github.com/klauspost/compress v1.18.7 // indirect
)

replace github.com/ticketgate/ticketgate => ../../..
